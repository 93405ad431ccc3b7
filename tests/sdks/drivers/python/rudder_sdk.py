"""RudderStack's Python SDK."""
# mypy: ignore-errors

from driver import failed, run
from rudderstack.analytics.client import Client
from segment_calls import make


def drive(host, key, mode, calls):
    sdk = Client(key, host=host, gzip=mode == "gzip", on_error=failed, upload_size=25)
    make(sdk, calls)
    sdk.shutdown()


run(drive)
