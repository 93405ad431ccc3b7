"""The SDKs under test: which package, which modes, what each can do."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

ROOT: Final = Path(__file__).parents[2]
DRIVERS: Final = Path(__file__).parent / "drivers"
PYTHON: Final = Path(os.environ.get("HEADRACE_SDKS_PYTHON", str(ROOT / ".venv-sdks" / "bin" / "python")))
MODULES: Final = DRIVERS / "node" / "node_modules"
DRIVER_TIMEOUT_S: Final = 150

Language = Literal["python", "node", "browser"]
Family = Literal["segment", "rudder", "jitsu", "posthog", "mixpanel", "amplitude", "snowplow", "cloudevents"]


@dataclass(frozen=True, slots=True)
class Subject:
    """An SDK in one mode.

    `own_ids`: it takes the caller's ids, so that a second run repeats them; otherwise its requests are repeated byte
    for byte. `retries`: it sends again what failed. `unsent`: kinds of calls that it cannot make.
    """

    package: str
    driver: str
    language: Language
    family: Family
    mode: str = "plain"
    own_ids: bool = True
    retries: bool = True
    unsent: frozenset[str] = frozenset()
    unnumbered: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.language}-{self.package.strip('@').replace('/', '-')}-{self.mode}"

    @property
    def version(self) -> str:
        """As installed."""
        if self.language == "python":
            return python_versions()[self.package]
        return str(json.loads((MODULES / self.package / "package.json").read_text())["version"])

    def drive(self, host: str, key: str, calls: list[dict[str, Any]]) -> list[str]:
        """Run the driver; gives the errors that the SDK reported."""
        if self.language == "python":
            command = [str(PYTHON), str(DRIVERS / "python" / f"{self.driver}.py")]
        else:
            command = ["node", str(DRIVERS / "node" / f"{self.driver}.mjs")]
        done = subprocess.run(
            command,
            input=json.dumps({"host": host, "key": key, "mode": self.mode, "calls": calls}),
            capture_output=True,
            text=True,
            timeout=DRIVER_TIMEOUT_S,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        )
        assert done.returncode == 0, f"{self}: exit code {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
        errors: list[str] = json.loads(done.stdout.splitlines()[-1])["errors"]
        return errors


@cache
def python_versions() -> dict[str, str]:
    """Versions of all packages beside the Python SDKs."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    done = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _modes(subject: Subject, *modes: str) -> list[Subject]:
    fields = {name: getattr(subject, name) for name in Subject.__slots__}
    return [Subject(**(fields | {"mode": mode})) for mode in modes]


NO_ALIAS: Final = frozenset(("alias",))
MIXPANEL_UNNUMBERED: Final = frozenset(("identify", "group", "alias"))

PYTHON_SUBJECTS: Final = (
    *_modes(Subject("segment-analytics-python", "segment_sdk", "python", "segment"), "plain", "gzip"),
    *_modes(Subject("rudder-sdk-python", "rudder_sdk", "python", "segment"), "plain", "gzip"),
    *_modes(Subject("analytics-python", "analytics_old_sdk", "python", "segment"), "plain", "gzip"),
    *_modes(Subject("posthog", "posthog_sdk", "python", "posthog"), "plain", "gzip", "v1"),
    *_modes(
        Subject("mixpanel", "mixpanel_sdk", "python", "mixpanel", own_ids=False, retries=False, unsent=NO_ALIAS),
        "plain",
        "buffered",
        "import",
    ),
    *_modes(
        Subject("amplitude-analytics", "amplitude_sdk", "python", "amplitude", retries=False), "httpapi", "batch"
    ),
    *_modes(Subject("snowplow-tracker", "snowplow_sdk", "python", "snowplow", own_ids=False), "post", "base64"),
    *_modes(Subject("snowplow-tracker", "snowplow_sdk", "python", "snowplow", own_ids=False, retries=False), "get"),
    *_modes(
        Subject("cloudevents", "cloudevents_sdk", "python", "cloudevents", retries=False),
        "binary",
        "structured",
        "batch",
    ),
)
NODE_SUBJECTS: Final = (
    Subject("@segment/analytics-node", "segment", "node", "segment"),
    *_modes(Subject("@rudderstack/rudder-sdk-node", "rudder", "node", "segment"), "plain", "gzip"),
    Subject("analytics-node", "analytics_old", "node", "segment"),
    Subject("@jitsu/js", "jitsu", "node", "jitsu", own_ids=False, retries=False, unsent=NO_ALIAS),
    *_modes(Subject("posthog-node", "posthog", "node", "posthog", own_ids=False), "plain", "gzip"),
    *_modes(
        Subject(
            "mixpanel", "mixpanel", "node", "mixpanel", own_ids=False, retries=False, unnumbered=MIXPANEL_UNNUMBERED
        ),
        "plain",
        "batch",
    ),
    *_modes(
        Subject("@amplitude/analytics-node", "amplitude", "node", "amplitude", retries=False), "httpapi", "batch"
    ),
    *_modes(
        Subject("@snowplow/node-tracker", "snowplow", "node", "snowplow", own_ids=False), "post", "base64", "get"
    ),
    *_modes(
        Subject("cloudevents", "cloudevents", "node", "cloudevents", retries=False), "binary", "structured", "batch"
    ),
)
BROWSER_SUBJECTS: Final = (
    *_modes(Subject("@segment/analytics-next", "segment", "browser", "segment"), "plain", "batch"),
    *_modes(Subject("@rudderstack/analytics-js", "rudder", "browser", "rudder", own_ids=False), "plain", "batch"),
    Subject("@jitsu/js", "jitsu", "browser", "jitsu", own_ids=False, retries=False, unsent=NO_ALIAS),
    *_modes(Subject("posthog-js", "posthog", "browser", "posthog", own_ids=False), "plain", "snippet"),
    *_modes(
        Subject("mixpanel-browser", "mixpanel", "browser", "mixpanel", own_ids=False, retries=False),
        "base64",
        "json",
    ),
    Subject("@amplitude/analytics-browser", "amplitude", "browser", "amplitude"),
    *_modes(
        Subject("@snowplow/browser-tracker", "snowplow", "browser", "snowplow", own_ids=False),
        "post",
        "base64",
        "get",
    ),
)
