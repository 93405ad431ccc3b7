"""Writes docs/reference/settings.md and metrics.md from the code: `python -m tests.contract.reference`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from headrace.metrics import SERIES
from headrace.settings import DECLARED, PREFIX

FOLDER = Path(__file__).parents[2] / "docs/reference"


def settings_page() -> Iterator[str]:
    """Every setting."""
    yield "# Settings"
    yield ""
    yield "Flags win over `HEADRACE_*` variables, those over the TOML file that `HEADRACE_CONFIG` names, that over"
    yield "the default. `headrace config show --origin` prints what is in force and where it came from."
    yield ""
    yield "This page is written from the code by `make reference`."
    yield ""
    yield "| setting | default | meaning |"
    yield "| --- | --- | --- |"
    for name, declared in DECLARED.items():
        default = "" if declared.default == "" else f"`{_text(declared.default)}`"
        choices = f" One of {', '.join(f'`{c}`' for c in declared.choices)}." if declared.choices else ""
        secret = " A secret: never logged or shown." if declared.secret else ""
        yield f"| `{PREFIX}{name.upper()}` | {default} | {declared.doc}.{choices}{secret} |"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def metrics_page() -> Iterator[str]:
    """Every metric."""
    yield "# Metrics"
    yield ""
    yield "At `/metrics` of every process, in Prometheus' text format. No label carries a customer, user or event."
    yield ""
    yield "This page is written from the code by `make reference`."
    yield ""
    yield "| metric | kind | labels | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, series in SERIES.items():
        yield f"| `{name}` | {series.kind} | {', '.join(series.labels)} | {series.help} |"


def pages() -> Mapping[Path, str]:
    """File → text."""
    return {
        FOLDER / "settings.md": "\n".join(settings_page()) + "\n",
        FOLDER / "metrics.md": "\n".join(metrics_page()) + "\n",
    }


def faults() -> list[str]:
    """Pages that are not what the code says."""
    return [
        f"docs/reference/{path.name} is not what the code says: run `make reference`"
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
