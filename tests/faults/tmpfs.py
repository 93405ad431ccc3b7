"""A small volume of a test's own, so that a disk can be full: a tmpfs, mounted for the test and always taken away."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOUNT_TIMEOUT_S = 20
BALLAST = "ballast"


@dataclass(frozen=True, slots=True)
class Volume:
    """A mounted tmpfs."""

    folder: Path

    @property
    def free_bytes(self) -> int:
        """What may still be written."""
        return shutil.disk_usage(self.folder).free

    def fill(self) -> None:
        """Take all the room there is. Others write at the same time: call it again to take what they let go."""
        descriptor = os.open(self.folder / BALLAST, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            piece = self.free_bytes
            while piece:
                try:
                    os.posix_fallocate(descriptor, size, piece)
                    size += piece
                    piece = self.free_bytes
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece = min(piece // 2, self.free_bytes)
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        """Let go of all that `fill` took."""
        (self.folder / BALLAST).unlink()


@contextmanager
def small_volume(folder: Path, mib: int) -> Iterator[Volume]:
    """A tmpfs of `mib` MiB on `folder`, which is made. Whatever uses it must have ended before the block does."""
    assert os.geteuid() == 0, "a disk can only be full if one is mounted: run this test as root, as CI does"
    folder.mkdir(mode=0o700, parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "headrace-test", str(folder))
    try:
        yield Volume(folder)
    finally:
        run("umount", "--lazy", str(folder))  # lazy: a process that outlived a failed test must not keep it here


def run(*command: str) -> None:
    """Run a command; its own words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOUNT_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"`{' '.join(command)}` failed (CAP_SYS_ADMIN is needed): {done.stderr.strip()}"
