"""Every setting of every process, declared once: name, type, default, meaning.

Precedence: flags, then `HEADRACE_*` in the environment, then a TOML file (`HEADRACE_CONFIG` or `file=`), then
the default. An unknown name is an error that suggests the nearest known one. `Settings.origin` tells where a
value came from. Nothing else in the project reads the environment.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from headrace.errors import ConfigurationError

PREFIX = "HEADRACE_"
CONFIG_VARIABLE = "HEADRACE_CONFIG"
MASK = "***"
KIB = 1024
MIB = 1024 * KIB


def _setting(default: Any, doc: str, *, secret: bool = False, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"doc": doc, "secret": secret, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, with their values. Load with `Settings.load`; change a copy with `dataclasses.replace`."""

    # Where the stores are
    kafka: str = _setting("127.0.0.1:9092", "Kafka bootstrap servers, host:port[,host:port]")
    kafka_idempotence: bool = _setting(True, "idempotent producer; false only for Tansu, with one request in flight")
    kafka_security_protocol: str = _setting(
        "PLAINTEXT", "how to talk to Kafka", choices=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    )
    kafka_sasl_mechanism: str = _setting("", "SASL mechanism, such as SCRAM-SHA-512")
    kafka_sasl_username: str = _setting("", "SASL user")
    kafka_sasl_password: str = _setting("", "SASL password", secret=True)
    kafka_ssl_ca_location: str = _setting("", "file with the CA certificates that Kafka's certificate is checked by")
    schema_registry_url: str = _setting(
        "",
        "registry of Confluent's API where `headrace topics create` registers the topics' schemas, "
        "https://user:password@host:port; empty: none",
        secret=True,
    )
    schema_registry_ca_location: str = _setting(
        "", "file with the CA certificates that its certificate is checked by; empty: the system's"
    )
    topic_prefix: str = _setting("", "put before every topic and group name, so that systems can share a broker")
    events_partitions: int = _setting(24, "partitions of `events`; fixed for an incarnation")
    replication_factor: int = _setting(1, "replicas of each topic that `headrace topics create` makes")
    events_retention_h: int = _setting(168, "hours that `events` keeps; replays reach back this far")
    postgres_control: str = _setting("", "DSN of the control database", secret=True)
    shard_user: str = _setting("headrace", "role that writes to the shards")
    shard_password: str = _setting("", "its password", secret=True)
    shard_reader_user: str = _setting("headrace_reader", "role that reads from the shards, under row-level security")
    shard_reader_password: str = _setting("", "its password", secret=True)
    clickhouse: str = _setting("", "ClickHouse, http://user:password@host:port/database; empty: none", secret=True)
    redis: str = _setting("", "Redis or Valkey, redis://:password@host:port/0; empty: none", secret=True)

    # Where we listen
    ingest_host: str = _setting("127.0.0.1", "address the gateway listens on")
    ingest_port: int = _setting(8080, "port the gateway listens on")
    api_host: str = _setting("127.0.0.1", "address the API listens on")
    api_port: int = _setting(8090, "port the API listens on")
    metrics_host: str = _setting("127.0.0.1", "address for /metrics, /livez and /readyz of workers and sinks")
    metrics_port: int = _setting(0, "port for them; 0: none")

    # Files, logs, secrets
    data_dir: str = _setting("", "folder for what a process keeps between runs")
    signing_key_file: str = _setting("", "PEM file (0600) with the Ed25519 key that signs tokens")
    log_level: str = _setting("info", "least level that is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = _setting("json", "json, or console for people", choices=("json", "console"))

    token: str = _setting("", "API token that `headrace query` and `headrace tail` ask with", secret=True)

    # The gateway's bounds
    ingest_body_bytes_max: int = _setting(4 * MIB, "largest request body as sent")
    ingest_inflated_bytes_max: int = _setting(20 * MIB, "largest request body after decompression")
    ingest_event_bytes_max: int = _setting(256 * KIB, "largest single event")
    ingest_properties_max: int = _setting(1000, "most properties of one event, nested ones counted")
    ingest_depth_max: int = _setting(64, "deepest nesting of one event")
    ingest_inflight_bytes_max: int = _setting(64 * MIB, "bytes of unanswered requests; past it: 503")
    ingest_connections_max: int = _setting(8192, "connections a gateway serves at once, 24 KiB each; more wait")
    ingest_publish_timeout_s: float = _setting(10.0, "longest wait for Kafka's acknowledgement; past it: 503")
    write_key_cache_s: float = _setting(2.0, "how long a looked-up write key is trusted: the delay of a revocation")
    write_key_cache_max: int = _setting(10_000, "write keys held in memory")
    write_key_stale_s: float = _setting(300.0, "how long a cached key serves while the control database is away")
    country_database: str = _setting("", "MMDB file that tells the country of an address; empty: none")
    country_database_check_s: float = _setting(30.0, "how often that file is looked at for a newer one")
    trusted_proxies: str = _setting(
        "127.0.0.0/8,::1/128", "networks of the proxies whose X-Forwarded-For is believed; empty: none"
    )
    posthog_js_dir: str = _setting(
        "", "folder `dist` of your copy of posthog-js, served to PostHog's HTML snippet; empty: none"
    )
    privacy_key: str = _setting(
        "", "secret that hashes of named properties are keyed with; the same on every gateway, for good", secret=True
    )

    # The fold: all of these are part of its version
    dedupe_window_h: int = _setting(24, "hours of receive time within which a message id counts once")
    grace_s: int = _setting(300, "how long after its end a window stays open for late events; whole minutes")
    skew_s: int = _setting(300, "how far an event may lie ahead of its receipt before it is clamped")
    watermark_bound_s: int = _setting(0, "how far the watermark stays behind the greatest event time")
    cardinality_max: int = _setting(1000, "dimension tuples per customer, rollup and window; more fold into (other)")
    minute_retention_h: int = _setting(48, "events older than this at receipt open no minute row")
    hour_retention_d: int = _setting(400, "events older than this at receipt open no hour row")

    # Frames, snapshots, sinks
    frame_interval_s: float = _setting(0.5, "time between frames when caught up; 3 × that above 8,000 events/s")
    frame_interval_max_s: float = _setting(10.0, "time between frames under lag")
    frame_events_max: int = _setting(500_000, "events that force a frame before its time")
    watchdog_s: float = _setting(120.0, "a worker without progress for this long, with records to fold, stops itself")
    snapshot_interval_s: float = _setting(300.0, "time between snapshots of a partition's fold")
    aggregates_age_min_s: float = _setting(48 * 3600.0, "frames younger than this are never trimmed")
    trim_waits_for: str = _setting(
        "",
        "sinks whose positions hold frames back from trimming, postgres,clickhouse; empty: postgres, and clickhouse "
        "where that is configured",
    )
    sink_queue_bytes_max: int = _setting(64 * MIB, "undelivered frames held per shard; past it: reading pauses")
    sink_batch_rows_max: int = _setting(50_000, "rows of one transaction or insert")
    sink_interval_s: float = _setting(0.2, "longest wait for more frames before a transaction")
    sinks: str = _setting("all", "which sinks a sink process runs", choices=("all", "postgres", "clickhouse"))
    retry_backoff_s: float = _setting(0.1, "first wait before a retry; doubles, with jitter")
    retry_backoff_max_s: float = _setting(5.0, "longest wait between retries")

    # Answers
    query_timeout_s: float = _setting(10.0, "longest run of one query in a store")
    query_rows_max: int = _setting(10_000, "most rows of one answer")
    query_batch_max: int = _setting(16, "most queries of one request")
    live_clients_max: int = _setting(1000, "open live streams of one API process")
    shard_map_lease_s: float = _setting(5.0, "how long a cached shard map is trusted")
    pool_size_max: int = _setting(8, "Postgres connections per database and process")
    max_clock_drift_s: float = _setting(5.0, "leeway when a token's times are checked")
    session_ttl_s: int = _setting(900, "life of a browser's session token; at most 15 minutes")
    session_code_ttl_s: int = _setting(3600, "how long the one-time code in a dashboard link is good for")
    refresh_ttl_s: int = _setting(14 * 86400, "life of a browser's refresh session")
    token_ttl_s: int = _setting(30 * 86400, "life of an API token")
    public_url: str = _setting("", "the API's address as browsers see it; https: cookies are Secure, HSTS is sent")
    ingest_url: str = _setting("", "the gateway's address as clients see it (for hints on the page)")

    _origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(
        cls,
        flags: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        file: str | Path | None = None,
    ) -> "Settings":
        """Merge all sources. Raises ConfigurationError on an unknown name or a malformed value."""
        environ = os.environ if environ is None else environ
        path = file or environ.get(CONFIG_VARIABLE)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        sources: list[tuple[Mapping[str, Any], Callable[[str], str]]] = []
        if path:
            sources.append((_read_file(Path(path)), lambda _name: f"file {path}"))
        from_environment = {
            name[len(PREFIX) :].lower(): value
            for name, value in environ.items()
            if name.startswith(PREFIX) and name != CONFIG_VARIABLE
        }
        sources.append((from_environment, lambda name: f"environment {PREFIX}{name.upper()}"))
        sources.append((flags or {}, lambda name: f"flag --{name.replace('_', '-')}"))
        for source, origin in sources:
            for name, value in source.items():
                if name not in DECLARED:
                    raise _unknown(name, origin(name))
                values[name] = _convert(name, value, origin(name))
                origins[name] = origin(name)
        return cls(**values, _origins=origins)

    def origin(self, name: str) -> str:
        """Where the value of `name` came from: a flag, the environment, a file, or `default`."""
        return self._origins.get(name, "default")

    def as_environment(self) -> dict[str, str]:
        """The `HEADRACE_*` variables that make another process load these same settings (defaults left out)."""
        return {
            PREFIX + name.upper(): str(getattr(self, name)).lower()
            if isinstance(getattr(self, name), bool)
            else str(getattr(self, name))
            for name, declared in DECLARED.items()
            if getattr(self, name) != declared.default
        }

    def as_toml(self) -> str:
        """A configuration file that loads these same settings (defaults left out). Holds secrets: keep it 0600."""
        lines = [
            f"{name} = {json.dumps(getattr(self, name), ensure_ascii=True)}"
            for name, declared in DECLARED.items()
            if getattr(self, name) != declared.default
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Declared:
    """One setting as declared."""

    name: str
    type: type
    default: Any
    doc: str
    secret: bool
    choices: tuple[str, ...]


def _declared() -> dict[str, Declared]:
    out = {}
    for item in fields(Settings):
        if not item.name.startswith("_"):
            assert item.default is not MISSING and isinstance(item.type, type)
            meta = item.metadata
            out[item.name] = Declared(
                item.name, item.type, item.default, meta["doc"], meta["secret"], meta["choices"]
            )
    return out


DECLARED: Mapping[str, Declared] = _declared()


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the configuration file {path}: {error.strerror}",
            remedy=f"create it or unset {CONFIG_VARIABLE}",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def _unknown(name: str, origin: str) -> ConfigurationError:
    near = difflib.get_close_matches(name, DECLARED, n=1)
    hint = f"did you mean {near[0]}?" if near else "`headrace config show` lists all settings"
    return ConfigurationError(f"unknown setting {name!r} ({origin})", remedy=hint)


def _convert(name: str, value: Any, origin: str) -> Any:
    declared = DECLARED[name]
    try:
        if declared.type is bool:
            converted: Any = _boolean(value)
        elif declared.type is int:
            converted = int(str(value).replace("_", ""))
        elif declared.type is float:
            converted = float(value)
        else:
            converted = str(value)
    except ValueError as error:
        shown = MASK if declared.secret else repr(value)
        raise ConfigurationError(
            f"{name} must be of type {declared.type.__name__}, not {shown} ({origin})", remedy=declared.doc
        ) from error
    if declared.choices and converted not in declared.choices:
        near = difflib.get_close_matches(str(converted), declared.choices, n=1)
        raise ConfigurationError(
            f"{name} must be one of {', '.join(declared.choices)}, not {converted!r} ({origin})",
            remedy=f"did you mean {near[0]}?" if near else declared.doc,
        )
    if declared.type in (int, float) and converted < 0:
        raise ConfigurationError(f"{name} must not be negative, got {converted} ({origin})", remedy=declared.doc)
    return converted


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ValueError(text)
