"""Vendored files are the bytes that VENDORED.md says, and nothing is vendored that it does not list."""

import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["api/dashboard/static/vendor", "tests/browser/vendor"]
# Hand-written types of the little that the page uses.
OWN = {"VENDORED.md", "preact.d.ts", "preact-hooks.d.ts", "signals.d.ts", "htm.d.ts"}
ROW = re.compile(
    r"^\| `(?P<file>[^`]+)` \|[^|]*\|[^|]*\|[^|]*\(`(?P<licence>[^`]+)`[^|]*\|[^|]*\| `(?P<sha256>[0-9a-f]{64})` \|",
    re.MULTILINE,
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_vendored_file_is_listed_with_its_hash_and_licence(folder: str) -> None:
    at = ROOT / folder
    listed = {row["file"]: row for row in ROW.finditer((at / "VENDORED.md").read_text())}
    present = {path.name for path in at.iterdir()} - OWN
    assert {name for name in present if not name.startswith("LICENSE-")} == set(listed)
    for name, row in listed.items():
        assert hashlib.sha256((at / name).read_bytes()).hexdigest() == row["sha256"], name
        assert (at / row["licence"]).stat().st_size > 500


def test_no_module_names_another_origin_or_needs_a_build_step() -> None:
    static = ROOT / "api/dashboard/static"
    imports = re.compile(r"""(?:^import[^'"]*|\}\s*from\s*)["']([^"']+)["']""", re.MULTILINE)
    found = 0
    for path in [*static.glob("js/**/*.js"), *static.glob("vendor/preact*.js"), *static.glob("vendor/signals*.js")]:
        for name in imports.findall(path.read_text()):
            found += 1
            assert name.startswith("."), f"{path.name} imports {name!r}, which a browser cannot resolve"
    assert found > 40
