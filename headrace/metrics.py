"""Every Prometheus series of Headrace, declared in one table.

A series is made at its first use and kept for the life of the process; call sites keep the child (a cached
child costs 0.4 µs a call, `.labels()` 1.7 µs). Labels never carry a user, an event name or a customer: their
sets are bounded by what the code declares.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import prometheus_client as prometheus

from headrace.settings import Settings

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: kind, help, label names, and buckets for a histogram (in its base unit)."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (10.0, 100.0, 1_000.0, 5_000.0, 20_000.0, 50_000.0, 200_000.0)

SERIES: Mapping[str, Series] = {
    # gateway
    "headrace_events_accepted_total": Series("counter", "events acknowledged by Kafka", ("protocol",)),
    "headrace_events_rejected_total": Series("counter", "events refused at the door", ("reason",)),
    "headrace_events_not_tracked_total": Series(
        "counter", "events of senders that asked not to be tracked, of customers that honour it; nothing is kept"
    ),
    "headrace_country_database_built_seconds": Series(
        "gauge", "when the country database in use was made, Unix seconds; 0: none"
    ),
    "headrace_event_values_dropped_total": Series("counter", "values outside their bound; the event itself was kept"),
    "headrace_bodies_cleaned_total": Series(
        "counter", "request bodies in which unpaired surrogates or U+0000 became U+FFFD"
    ),
    "headrace_requests_refused_total": Series("counter", "requests refused whole", ("reason",)),
    "headrace_events_over_quota_total": Series(
        "counter", "events refused by a quota; a request refused before its body is parsed counts as one", ("kind",)
    ),
    "headrace_quota_accounts": Series("gauge", "customers whose quota this gateway holds in memory"),
    "headrace_quota_alone": Series("gauge", "1 while quotas hold for this gateway alone: no Redis, or it is away"),
    "headrace_ingest_inflight_bytes": Series("gauge", "bytes of requests that wait for Kafka"),
    "headrace_publish_seconds": Series("histogram", "from hand-over to Kafka's acknowledgement", (), SECONDS),
    "headrace_plan_violations_total": Series("counter", "events that broke their tracking plan", ("mode",)),
    "headrace_write_key_cache_entries": Series("gauge", "write keys held in memory"),
    "http_server_request_duration_seconds": Series(
        "histogram", "time to answer a request", ("service", "route", "status"), SECONDS
    ),
    # importer
    "headrace_import_rows_total": Series("counter", "rows of imported files", ("outcome",)),
    # stream workers
    "headrace_events_read_total": Series("counter", "events that a worker took in, second arrivals included"),
    "headrace_events_folded_total": Series("counter", "events that reached an aggregate"),
    "headrace_events_deduplicated_total": Series("counter", "events that were a second arrival"),
    "headrace_events_late_total": Series("counter", "events whose window was final at their arrival"),
    "headrace_events_dead_total": Series("counter", "records set aside in events.dead", ("reason",)),
    "headrace_stage_seconds_total": Series("counter", "time spent in each stage of a worker", ("stage",)),
    "headrace_frames_total": Series("counter", "frames acknowledged"),
    "headrace_frame_rows": Series("histogram", "changed rows of a frame", (), ROWS),
    "headrace_frame_bytes_total": Series("counter", "bytes of acknowledged frames"),
    "headrace_open_rows": Series("gauge", "rows held in memory", ("partition",)),
    "headrace_dedupe_ids": Series("gauge", "message ids held for deduplication", ("partition",)),
    "headrace_recovery_seconds": Series("histogram", "from assignment to caught up", (), SECONDS),
    "headrace_records_stale_total": Series("counter", "fetched records outside our position, read again or skipped"),
    "headrace_snapshots_total": Series("counter", "snapshots written", ("outcome",)),
    "headrace_consumer_lag_records": Series("gauge", "records behind the end of the log", ("partition",)),
    "headrace_consumer_lag_seconds": Series("gauge", "age of the newest folded or stored record", ("partition",)),
    # sinks
    "headrace_sink_rows_total": Series("counter", "rows written", ("store", "shard")),
    "headrace_sink_transactions_total": Series("counter", "transactions or inserts", ("store", "shard", "outcome")),
    "headrace_sink_seconds": Series("histogram", "time of one transaction or insert", ("store",), SECONDS),
    "headrace_sink_queue_bytes": Series("gauge", "frames waiting for a store", ("store", "shard")),
    "headrace_sink_lag_records": Series("gauge", "records behind the end of the frames' log", ("store", "shard")),
    "headrace_frames_skipped_total": Series("counter", "frames that brought nothing new", ("reader",)),
    "headrace_frame_gaps_total": Series("counter", "frames that start past our position: an alarm", ("reader",)),
    "headrace_freshness_seconds": Series(
        "gauge", "now minus the time up to which all that was received is stored", ("store", "shard")
    ),
    "headrace_live_notices_dropped_total": Series("counter", "notices of change not sent: Redis away"),
    "headrace_frames_unreadable_total": Series("counter", "records of aggregates that are no frame", ("reader",)),
    "headrace_frames_refused_total": Series(
        "counter", "frames of another fold version or another log", ("reader", "reason")
    ),
    "headrace_sink_lanes_detached": Series(
        "gauge", "1 while a shard has a reader of its own, or is set aside", ("shard",)
    ),
    "headrace_raw_events_skipped_total": Series("counter", "events left out of the raw store", ("reason",)),
    # answers
    "headrace_queries_total": Series("counter", "queries answered", ("kind", "source", "outcome")),
    "headrace_query_seconds": Series("histogram", "time of one query", ("kind", "source"), SECONDS),
    "headrace_live_clients": Series("gauge", "open live streams"),
    "headrace_shard_map_epoch": Series("gauge", "epoch of the shard map in use"),
}


@cache
def _series(name: str) -> Any:
    declared = SERIES[name]
    if declared.kind == "histogram":
        return prometheus.Histogram(name, declared.help, declared.labels, buckets=declared.buckets)
    made = prometheus.Counter if declared.kind == "counter" else prometheus.Gauge
    return made(name, declared.help, declared.labels)


def _child(name: str, kind: Kind, labels: tuple[str, ...]) -> Any:
    assert SERIES[name].kind == kind, f"{name} is a {SERIES[name].kind}"
    series = _series(name)
    return series.labels(*labels) if SERIES[name].labels else series


def counter(name: str, *labels: str) -> prometheus.Counter:
    """The counter `name` with these label values, in the order of its declaration. Keep what you get."""
    child: prometheus.Counter = _child(name, "counter", labels)
    return child


def gauge(name: str, *labels: str) -> prometheus.Gauge:
    """The gauge `name` with these label values."""
    child: prometheus.Gauge = _child(name, "gauge", labels)
    return child


def histogram(name: str, *labels: str) -> prometheus.Histogram:
    """The histogram `name` with these label values."""
    child: prometheus.Histogram = _child(name, "histogram", labels)
    return child


def exposition() -> tuple[bytes, str]:
    """All series of this process as (body, content type), for an HTTP service's own `/metrics`."""
    return prometheus.generate_latest(), prometheus.CONTENT_TYPE_LATEST


Probe = Callable[[], Mapping[str, Any] | None]
"""Tells what is wrong as a mapping, or None when all is well."""


def serve_metrics(settings: Settings, *, live: Probe, ready: Probe) -> Callable[[], None]:
    """Serve `/metrics`, `/livez`, `/readyz` and `/startupz` from a thread; returns what stops it.

    Does nothing when `metrics_port` is 0. Meant for processes that have no HTTP server of their own.
    """
    if not settings.metrics_port:
        return lambda: None

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path == "/metrics":
                body, kind = exposition()
                self._answer(200, body, kind)
            elif self.path in ("/livez", "/readyz", "/startupz"):
                wrong = live() if self.path == "/livez" else ready()
                status = 200 if wrong is None else 503
                self._answer(status, json.dumps({"ok": wrong is None, **(wrong or {})}).encode(), "application/json")
            else:
                self._answer(404, b"not found\n", "text/plain")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Probes every few seconds are not worth a line."""

    server = ThreadingHTTPServer((settings.metrics_host, settings.metrics_port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
