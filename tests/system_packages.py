"""Install what the tests need from the system: Java and Maven for Kafka, Chromium, HAProxy.

As root on Debian it installs what is missing; otherwise it names the package and the command.
"""

import os
import shutil
import subprocess
import sys

NEEDED = {
    "java": "default-jre-headless",
    "mvn": "maven",
    "chromium": "chromium",
    "haproxy": "haproxy",
}
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
INSTALL_TIMEOUT_S = 900


def missing() -> list[str]:
    """Debian packages of the programs that are not there."""
    return [package for program, package in NEEDED.items() if not shutil.which(program, path=SEARCHED)]


def main() -> int:
    """0 when all is there in the end, 78 otherwise."""
    packages = missing()
    if not packages:
        return 0
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        prefix = "" if os.geteuid() == 0 else "sudo "
        print(f"The tests need {', '.join(packages)}. On Debian: {prefix}{' '.join(command)}", file=sys.stderr)
        return 78
    print(f"Installing {', '.join(packages)} from Debian's packages ...", file=sys.stderr)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "-qq"], [*command, "-qq"]):
        done = subprocess.run(
            step, env=environment, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        if done.returncode:
            print(f"`{' '.join(step)}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
            return 78
    left = missing()
    if left:
        print(f"still missing after installation: {', '.join(left)}", file=sys.stderr)
    return 78 if left else 0


if __name__ == "__main__":
    sys.exit(main())
