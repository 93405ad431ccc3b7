"""The engines of the integration tests, for SDKs to be driven against, and one whole system for test_delivery."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import CHROMIUM, CHROMIUM_FLAGS
from tests.faults.running import running_system
from tests.integration.conftest import (
    engines_folder,
    kafka_address,
    kafka_engine,
    make_settings,
    postgres,
    postgres_engines,
    topic_prefix,
)
from tests.sdks.browser import site
from tests.sdks.record import Record
from tests.sdks.subjects import MODULES
from tests.sdks.world import World

POSTHOG_JS: Final = MODULES / "posthog-js" / "dist"
"""What PostHog's HTML snippet is served."""

__all__ = [
    "engines_folder",
    "kafka_address",
    "kafka_engine",
    "make_settings",
    "postgres",
    "postgres_engines",
    "topic_prefix",
]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A system of our own; HEADRACE_SDKS_TARGET names the folder of another (ready.json and data/ in it)."""
    if named := os.environ.get("HEADRACE_SDKS_TARGET"):
        yield World(Path(named))
        return
    with running_system(tmp_path_factory.mktemp("sdks"), posthog_js_dir=str(POSTHOG_JS)) as system:
        yield World(system.folder)


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """What the tests found; written to docs/sdks.md at the end if HEADRACE_SDKS_RECORD is set."""
    record = Record()
    yield record
    if os.environ.get("HEADRACE_SDKS_RECORD"):
        record.write()


@pytest.fixture(scope="module")  # no longer: while it lives, its event loop runs in the tests' thread
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the pages that the browser SDKs run on: another origin than the gateway's."""
    with site() as found:
        yield found
