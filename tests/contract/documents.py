"""What documents say exists, exists: linked files and headings, cited pages, commands with their options, targets.

Commands are read by click's own parser and never run. Files that a command's example names are stood in for by one
that is there.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from headrace.cli import cli
from headrace.metrics import SERIES
from headrace.settings import DECLARED, PREFIX

ROOT = Path(__file__).parents[2]
PACKAGES = ("headrace", "schemas", "producers", "streams", "sinks", "api")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CITED = re.compile(r"\bdocs/[\w/-]+\w(?:\.\w+)?")
_INLINE = re.compile(r"`(headrace [^`]+)`")
_OPTION = re.compile(r"--[a-z][a-z-]*")
_NAME = re.compile(r"\b(?:headrace|HEADRACE)_\w+")
_OTHER_NAMES = frozenset(("HEADRACE_CONFIG", "HEADRACE_BIND", "headrace_reader"))
"""What is called like a setting or a metric and is neither: the file's place, a Compose variable, a role."""
_COMMAND = re.compile(r"^(?:#\s+)?\$ (.+)$", re.MULTILINE)
_EXAMPLE_FILE = re.compile(r"[\w./$-]+\.(csv|ndjson|toml|json|log|gz)")
_TARGET = re.compile(r"^([\w%-]+):", re.MULTILINE)
_IN_A_CONTAINER = ["docker", "compose", "run", "--rm", "cli"]
_SHELL_WORDS = frozenset(("|", ">", "&&", ";", "&"))


def documents() -> list[Path]:
    """Every page of prose, and the Compose file, whose comments hold commands."""
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "docker-compose.yml"]


def faults() -> list[str]:
    """All that documents and docstrings promise and the project does not have."""
    found = []
    for path in documents():
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        if path.suffix == ".md":
            found += [f"{name}: {fault}" for fault in (*link_faults(path, text), *name_faults(text))]
        found += [f"{name}: {fault}" for fault in command_faults(text)]
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found += [f"{path.relative_to(ROOT)}: {fault}" for fault in citation_faults(text)]
    return found


def link_faults(page: Path, text: str) -> Iterator[str]:
    """Links of a page that lead nowhere in the project; other sites are not asked."""
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if not linked.exists():
            yield f"links to {target}, which is not there"
        elif anchor and anchor not in {slug(heading) for heading in _HEADING.findall(linked.read_text("utf-8"))}:
            yield f"links to {target}, a heading that is not there"


def name_faults(text: str) -> Iterator[str]:
    """Settings and metrics that a page names and the code does not declare."""
    known = SERIES.keys() | {PREFIX + name.upper() for name in DECLARED} | _OTHER_NAMES
    for name in sorted(set(_NAME.findall(text)) - known):
        yield f"names {name}, which is neither a setting nor a metric"


def slug(heading: str) -> str:
    """A heading's anchor, as forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def citation_faults(text: str) -> Iterator[str]:
    """Pages of docs/ that code names and that are not there; the ending may be left out."""
    for cited in sorted(set(_CITED.findall(text))):
        if not any((ROOT / name).exists() for name in (cited, f"{cited}.md")):
            yield f"names {cited}, which is not there"


def command_faults(text: str) -> Iterator[str]:
    """Command lines (`$ ...`) that the parser refuses, and commands within prose whose verb or option is unknown."""
    for line in _COMMAND.findall(text):
        words = shlex.split(line, comments=True)
        arguments = headrace_arguments(words)
        if arguments is not None:
            fault = parse_fault(arguments)
            if fault:
                yield f"`{line}`: {fault}"
        elif words[0] == "make" and words[1] not in targets():
            yield f"`{line}`: the Makefile has no {words[1]!r}"
    for command in _INLINE.findall(text):
        fault = mention_fault(command)
        if fault:
            yield f"`{command}`: {fault}"


def headrace_arguments(words: Sequence[str]) -> list[str] | None:
    """What headrace gets from this command; None when the command is another program's."""
    words = [word for i, word in enumerate(words) if not _SHELL_WORDS.intersection(words[: i + 1])]
    if words[: len(_IN_A_CONTAINER)] == _IN_A_CONTAINER:
        return words[len(_IN_A_CONTAINER) :]
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[:2] == ["make", "demo"]:
        return ["demo", *(word.removeprefix("ARGS=") for word in words[2:])]
    if words and Path(words[0]).name == "headrace":
        return words[1:]
    return None


def parse_fault(arguments: Sequence[str]) -> str | None:
    """What click's parser says against these arguments; None when it takes them."""
    stand_in = str(ROOT / "README.md")
    rest = [stand_in if _EXAMPLE_FILE.fullmatch(word) else word for word in arguments]
    command: click.Command = cli
    name: str | None = "headrace"
    parent = None
    try:
        while isinstance(command, click.Group):
            parent = click.Context(command, info_name=name, parent=parent)
            name, found, rest = command.resolve_command(parent, rest)
            assert found is not None, "resolve_command raises for an unknown name"
            command = found
        command.make_context(name, rest, parent=parent)
    except click.ClickException as error:
        return error.format_message()
    return None


def mention_fault(command: str) -> str | None:
    """Whether a command that prose mentions, perhaps in part, has its verbs and long options; None when it has."""
    words = command.split()[1:]
    found: click.Command = cli
    parent = None
    while isinstance(found, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        parent = click.Context(found, parent=parent)
        below = found.get_command(parent, words[0])
        if below is None:
            return f"there is no {words[0]!r}"
        found, words = below, words[1:]
    known = {option for param in found.params for option in (*param.opts, *param.secondary_opts)}
    known |= {"--help", "--version"}
    unknown = [option for word in words for option in _OPTION.findall(word) if option not in known]
    return f"no such option: {', '.join(unknown)}" if unknown else None


def targets() -> set[str]:
    """What the Makefile makes; a pattern's targets are those whose benches there are."""
    named = set(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    return named | {f"bench-{path.stem}" for path in (ROOT / "bench").glob("*.py")}
