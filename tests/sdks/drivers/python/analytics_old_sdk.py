"""Segment's Python SDK before it was renamed (analytics-python 1.4)."""
# mypy: ignore-errors

from analytics.client import Client
from driver import failed, run
from segment_calls import make


def drive(host, key, mode, calls):
    sdk = Client(key, host=host, gzip=mode == "gzip", on_error=failed, upload_size=25)
    make(sdk, calls)
    sdk.shutdown()


run(drive)
