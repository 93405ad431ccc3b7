"""Every SDK, unchanged but for its host and its key, against a whole system: `make test-sdks`.

Its calls are stored once and right; sent again with the same ids they add nothing; with half of the requests cut off
each is stored once, if the SDK sends again at all.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Browser

from tests.sdks.browser import driven, keep_open
from tests.sdks.calls import make_calls
from tests.sdks.delivery import Trial
from tests.sdks.door import Door, open_door
from tests.sdks.expect import expected_of
from tests.sdks.expect_browser import expected_in_browser, own_names
from tests.sdks.record import Line, Record
from tests.sdks.subjects import BROWSER_SUBJECTS, NODE_SUBJECTS, PYTHON_SUBJECTS, Subject
from tests.sdks.world import World

pytestmark = pytest.mark.slow

EVENTS_MIN = 40
AT_ONCE = 5
LOSSY_S = 5.0
"""So long is waited for what an SDK that never sends again may have lost."""
OPEN_S = 60.0
"""A page stays open so long for what is still to be sent."""

Run = Callable[[Door, Trial], list[str]]


@pytest.fixture(scope="module")
def trials(request: pytest.FixtureRequest, world: World) -> Iterator[dict[Subject, "Future[Line]"]]:
    """All chosen SDKs of servers, some at once: a trial is waiting for the most part."""
    chosen = [item.callspec.params["subject"] for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            subject: pool.submit(server_trial, world, subject) for subject in chosen if subject.language != "browser"
        }


@pytest.mark.parametrize("subject", (*PYTHON_SUBJECTS, *NODE_SUBJECTS), ids=str)
def test_a_server_sdk_delivers_unchanged(
    trials: dict[Subject, "Future[Line]"], record: Record, subject: Subject
) -> None:
    record.lines.append(trials[subject].result())


def server_trial(world: World, subject: Subject) -> Line:
    """A trial by the SDK's driver, a process of its own."""
    calls = make_calls(str(subject), datetime.now(UTC))
    expected = expected_of(subject, calls)
    bodies = [call.as_json() for call in calls]

    def run(door: Door, trial: Trial) -> list[str]:
        return subject.drive(door.host, trial.tenant.write_key, bodies)

    plain = Trial(subject, world.tenant(f"{subject}"), expected)
    shaky = Trial(subject, world.tenant(f"{subject} shaky"), expected)
    return tried(world, plain, shaky, run)


@pytest.mark.parametrize("subject", BROWSER_SUBJECTS, ids=str)
def test_a_browser_sdk_delivers_unchanged(
    world: World, record: Record, chromium: Browser, address: str, subject: Subject
) -> None:
    calls = make_calls(str(subject), datetime.now(UTC))
    expected = expected_in_browser(subject, calls)
    bodies = [call.as_json() for call in calls]

    def run(door: Door, trial: Trial) -> list[str]:
        with driven(chromium, address, subject, door.host, trial.tenant.write_key, bodies) as (page, errors):
            keep_open(page, trial.all_there, OPEN_S if subject.retries else LOSSY_S)
            page.wait_for_timeout(500)
        return errors

    own = own_names(subject)
    plain = Trial(subject, world.tenant(f"{subject}"), expected, own)
    shaky = Trial(subject, world.tenant(f"{subject} shaky"), expected, own)
    record.lines.append(tried(world, plain, shaky, run))


def tried(world: World, plain: Trial, shaky: Trial, run: Run) -> Line:
    """Both runs, everything compared, and once more with the same ids."""
    subject = plain.subject
    assert len(plain.expected) >= EVENTS_MIN
    with ExitStack() as stack:
        door = stack.enter_context(open_door(world.ingest_port))
        bad = stack.enter_context(open_door(world.ingest_port, flaky=True))
        assert run(door, plain) == []
        run(bad, shaky)
        assert any(passed.fate != "pass" for passed in bad.passed)
        plain.wait_there()
        plain.check()
        shaky.wait_there(LOSSY_S if not subject.retries else OPEN_S)
        first, shaky_first, arrivals = plain.distinct(), shaky.distinct(), len(shaky.tenant.logged())
        again(subject, door, plain, run)
        assert set(bad.replay()) <= {200}
    ended_s = time.time()
    second, shaky_second = plain.settled(ended_s), shaky.settled(ended_s)
    plain.check(repeated=subject.unnumbered)
    shaky.check(lossy=not subject.retries, repeated=subject.unnumbered)
    unnumbered = len([call for call in plain.expected.values() if call.kind in subject.unnumbered])
    assert second - first == unnumbered, f"{subject}: {first} events, {second} after the same ones again"
    if not unnumbered:
        assert shaky_second == shaky_first, f"{subject}: {shaky_first} events, {shaky_second} after a replay"
    return Line(subject, len(plain.expected), first, second - first, shaky.there(), arrivals - shaky_first)


def again(subject: Subject, door: Door, plain: Trial, run: Run) -> None:
    """The same ids once more: by the SDK itself where it takes ids, else the same bytes."""
    if subject.own_ids:
        assert run(door, plain) == []
    else:
        assert set(door.replay()) == {200}
