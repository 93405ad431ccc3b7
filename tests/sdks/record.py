"""The table of SDKs, as the last run that was asked to write it found them: docs/sdks.md."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from tests.sdks.subjects import ROOT, Subject

FILE: Final = ROOT / "docs" / "sdks.md"
LANGUAGES: Final = {"python": "Python", "node": "Node", "browser": "Chromium"}
HEAD: Final = """# Which SDKs work
Written by `make test-sdks RECORD=1` on {day}. Each SDK ran unchanged against a whole system (`headrace up`): calls of
every kind that it has, compared field by field through the query API (texts in many scripts, nested and long values,
numbers at the edges of a double, half a surrogate pair, NUL).

- *sent, stored*: calls made, events counted by the API. Mixpanel's browser SDK sends some of its own besides.
- *again*: events that the API's total gained when all was sent once more with the same ids.
- *half fails*: calls that were stored, each once, while every second request was cut off, in turn before the gateway
  had it and after it had answered. *(n extra)*: that many arrived again and were not counted.

| SDK | version | in | mode | sent | stored | again | half fails |
| --- | --- | --- | --- | ---: | ---: | ---: | --- |
"""
KNOWN: Final = """
## What does not work, and why
- **Never sends again what failed**: `mixpanel` in Python (over plain HTTP; over HTTPS it does) and in Node,
  `@jitsu/js` in Node, `cloudevents`, and both of Amplitude's server SDKs when a connection is cut (they do at 429 and
  5xx). What is lost on the way is lost in the SDK. In browsers Chromium itself repeats a request whose connection was
  closed. `mixpanel-browser` sends again at 429, 5xx and time-outs, not what a broken connection took.
- **Snowplow's Python tracker by GET** forgets the failed ones of a batch if the last one got through: use POST.
- **`mixpanel` in Node** gives profiles, groups and aliases neither an id nor a time: two equal calls cannot be told
  from a repeated one, so both count. Give events an `$insert_id`. Its `import` insists on HTTPS: not tried here.
- **`mixpanel` in Python** sends `alias` to Mixpanel's own host, whatever it is told.
- **jitsu's ready-made script** (`p.js`) sends to the host that it was loaded from: serve it from the gateway's name,
  or use the npm package. jitsu has no alias calls, and takes no times and no ids.
- **analytics.js** (analytics-next) sends an alias call with the user that it knows, not with the one it is given.
- **Snowplow's Python tracker** raises at half a surrogate pair with base64 or GET.
- Cut by the SDKs themselves: texts at 255 characters (`mixpanel-browser`), at 1,024 (Amplitude in Python); lists of
  mixed kinds in user properties (Amplitude in JavaScript), empty texts and lists there (Amplitude in Python).
- NUL and unpaired surrogates are stored as U+FFFD, whoever sends them.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What one SDK did in one mode."""

    subject: Subject
    sent: int
    stored: int
    again: int
    shaky_stored: int
    shaky_extra: int

    def __str__(self) -> str:
        subject = self.subject
        shaky = f"{self.shaky_stored} ({self.shaky_extra} extra)"
        if self.shaky_stored < self.sent:
            shaky += ", does not send again"
        cells = (f"`{subject.package}`", subject.version, LANGUAGES[subject.language], subject.mode)
        numbers = (self.sent, self.stored, self.again, shaky)
        return "| " + " | ".join(str(cell) for cell in (*cells, *numbers)) + " |"


@dataclass(slots=True)
class Record:
    """Lines in the tests' order."""

    lines: list[Line] = field(default_factory=list)

    def write(self) -> None:
        """The whole file."""
        FILE.write_text(document(self.lines, datetime.now(UTC).date().isoformat()), encoding="utf-8")


def document(lines: Iterable[Line], day: str) -> str:
    """docs/sdks.md."""
    return HEAD.format(day=day) + "".join(f"{line}\n" for line in lines) + KNOWN
