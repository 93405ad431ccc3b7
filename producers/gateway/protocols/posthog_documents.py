"""What PostHog's SDKs ask for beside sending events: remote configuration and feature flags, all of it "nothing".

posthog-js starts without these, but logs errors and asks again; with them it sends events and leaves the rest alone:
no session recordings, surveys, heatmaps, site apps. The configuration leaves open whether there are flags, so that
the SDK asks, gets none, and calls whoever waits for flags. Nothing here holds a secret.
"""
# ruff: noqa: ARG001, ARG002 (the signatures are the seam's, see decoder.py)

import json
from collections.abc import Mapping
from typing import Any, Final

from producers.gateway.answers import Answer, json_answer
from producers.gateway.protocols.decoder import Request

CONFIG: Final[Mapping[str, Any]] = {
    "supportedCompression": ["gzip", "gzip-js"],
    "analytics": {"endpoint": "/e/"},
    "elementsChainAsString": True,
    "autocapture_opt_out": False,
    "autocaptureExceptions": False,
    "captureDeadClicks": False,
    "capturePerformance": False,
    "conversations": False,
    "errorTracking": {"autocaptureExceptions": False, "suppressionRules": []},
    "heatmaps": False,
    "productTours": False,
    "sessionRecording": False,
    "siteApps": [],
    "surveys": False,
}

_CACHE = ((b"cache-control", b"public, max-age=300"),)
_NO_FLAGS: Final[Mapping[str, Any]] = {
    **CONFIG,
    "flags": {},
    "featureFlags": {},
    "featureFlagPayloads": {},
    "errorsWhileComputingFlags": False,
    "toolbarParams": {},
    "isAuthenticated": False,
}
_FIRST_VERSION: Final = ("", "1")
"""Of /decide, which told its flags as a list."""


class RemoteConfig:
    """The configuration as JSON."""

    def write_key(self, request: Request) -> str | None:
        return request.parameters["write_key"]

    def answer(self, request: Request, write_key: str) -> Answer:
        return json_answer({"token": write_key, **CONFIG}, headers=_CACHE)


class RemoteConfigScript(RemoteConfig):
    """The configuration as the script that posthog-js loads first."""

    def answer(self, request: Request, write_key: str) -> Answer:
        key = json.dumps(write_key).replace("<", "\\u003c")
        found = json.dumps({"config": {"token": write_key, **CONFIG}, "siteApps": []}).replace("<", "\\u003c")
        script = f"(function(w){{(w._POSTHOG_REMOTE_CONFIG=w._POSTHOG_REMOTE_CONFIG||{{}})[{key}]={found}}})(window);"
        return Answer(200, script.encode(), b"application/javascript", _CACHE)


def flags(request: Request) -> Answer:
    """No feature flag, in the words of all versions of /flags and /decide at once."""
    if request.path == "/decide" and request.query.get("v", "") in _FIRST_VERSION:
        return json_answer({**_NO_FLAGS, "featureFlags": []})
    return json_answer(_NO_FLAGS)


def flag_definitions(request: Request) -> Answer:
    """No feature flag, for server SDKs that evaluate flags by themselves."""
    return json_answer({"flags": [], "group_type_mapping": {}, "cohorts": {}})


def recording(request: Request) -> Answer:
    """A piece of a session recording. Recordings are not taken; an SDK that sends one is not told to come again."""
    return json_answer({"status": 1})
