"""The documents without which Segment's and RudderStack's browser SDKs do not start. They hold no secret."""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

import hashlib

from producers.gateway.answers import Answer, json_answer
from producers.gateway.protocols.decoder import Request

_CACHE = ((b"cache-control", b"public, max-age=300"),)


class AnalyticsSettings:
    """What analytics.js 2 gets from its CDN: only its own destination, at this gateway."""

    def write_key(self, request: Request) -> str | None:
        return request.parameters["write_key"]

    def answer(self, request: Request, write_key: str) -> Answer:
        return json_answer(
            {
                "integrations": {
                    "Segment.io": {
                        "apiKey": write_key,
                        "apiHost": f"{request.headers.get('host', '')}/v1",
                        "protocol": request.headers.get("x-forwarded-proto", request.scheme),
                        "addBundledMetadata": True,
                        "unbundledIntegrations": [],
                        "bundledIntegrations": [],
                    }
                },
                "plan": {"track": {"__default": {"enabled": True, "integrations": {}}}},
                "edgeFunction": {},
                "analyticsNextEnabled": True,
                "middlewareSettings": {},
                "enabledMiddleware": {},
                "metrics": {"sampleRate": 0},
                "legacyVideoPluginsEnabled": False,
                "remotePlugins": [],
            },
            headers=_CACHE,
        )


class RudderSourceConfig:
    """What rudder-js gets from its control plane: an enabled source without destinations."""

    def write_key(self, request: Request) -> str | None:
        return None

    def answer(self, request: Request, write_key: str) -> Answer:
        source_id = hashlib.sha256(write_key.encode()).hexdigest()[:27]
        off = {"enabled": False}
        return json_answer(
            {
                "source": {
                    "id": source_id,
                    "name": "headrace",
                    "writeKey": write_key,
                    "enabled": True,
                    "workspaceId": source_id,
                    "config": {"statsCollection": {"errors": off, "metrics": off}},
                    "destinations": [],
                    "connections": [],
                },
                "updatedAt": "2000-01-01T00:00:00.000Z",
            },
            headers=_CACHE,
        )
