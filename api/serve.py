"""The API as a process: the one place where its parts are made and joined."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from api.app import Deps, create_app
from api.auth.keys import SigningKey, ensure_signing_key
from api.auth.sessions import Sessions
from api.auth.store import ControlStore
from api.auth.tokens import Verifier
from api.live import LiveHub
from api.query.clickhouse import RawSource, connector
from api.query.planner import Retention
from api.query.postgres import RollupSource
from api.query.service import QueryRules, QueryService
from api.schema_lookup import SchemaLookup
from api.violations import Violations
from headrace import http_server
from headrace.clickhouse import ClickHouseAddress
from headrace.clock import Clock, SystemClock
from headrace.errors import ConfigurationError, UnavailableError
from headrace.kafka import partition_for
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.router import AsyncRouter
from headrace.topics import events_topic_id

REDIS_TIMEOUT_S = 2.0
REDIS_BLOCK_S = 5.0
"""Longer than live.BLOCK_MS: a blocking read is not a dead server."""
DRAIN_S = 0.5


KAFKA_TIMEOUT_S = 2.0
"""Answers need no Kafka; it is asked only whether the settings fit its topic."""

log = get_logger(__name__)


def run(settings: Settings) -> int:
    """Serve until SIGTERM; returns the process's exit code."""
    _check_partitions(settings)
    if settings.public_url and not settings.public_url.lower().startswith(("http://", "https://")):
        raise ConfigurationError(
            f"public_url is no address: {settings.public_url!r}", remedy="write it as https://analytics.example.com"
        )
    key = ensure_signing_key(settings)
    deps = make_deps(settings, key, SystemClock())
    app = create_app(deps)

    def on_stop() -> None:
        app.state.stopping = True
        deps.live.stop()

    return http_server.run(app, host=settings.api_host, port=settings.api_port, on_stop=on_stop, drain_s=DRAIN_S)


def _check_partitions(settings: Settings) -> None:
    """Raise ConfigurationError when `events` has other partitions than the settings say: a customer's rows would be
    looked for under the wrong one. With Kafka away there is nothing to compare."""
    try:
        events_topic_id(settings, timeout_s=KAFKA_TIMEOUT_S)
    except UnavailableError as error:
        log.warning("partitions_unchecked", reason=error.message)


def make_deps(settings: Settings, key: SigningKey, clock: Clock) -> Deps:
    """All parts over `settings`; nothing is connected yet."""

    def partition_of(customer_id: int) -> int:
        return partition_for(str(customer_id).encode("ascii"), settings.events_partitions)

    router = AsyncRouter(settings, clock)
    control = ControlStore(settings)
    redis = _redis(settings, REDIS_TIMEOUT_S)
    live_redis = _redis(settings, REDIS_BLOCK_S)
    sessions = None
    if redis is not None:
        sessions = Sessions(
            redis,
            key,
            clock,
            ttl_s=settings.session_ttl_s,
            refresh_ttl_s=settings.refresh_ttl_s,
            code_ttl_s=settings.session_code_ttl_s,
        )
    raw = None
    if settings.clickhouse:
        address = ClickHouseAddress.parse(settings.clickhouse)
        connect = connector(address, settings.query_timeout_s)
        raw = RawSource(connect, partition_of, timeout_s=settings.query_timeout_s)
    rules = QueryRules(
        Retention(settings.minute_retention_h * 3600, settings.hour_retention_d * 86_400), settings.grace_s
    )

    async def close_redis() -> None:
        for client in (redis, live_redis):
            if client is not None:
                await client.aclose()

    queries = QueryService(RollupSource(router, partition_of, clock), raw, rules, clock)
    return Deps(
        settings=settings,
        clock=clock,
        router=router,
        control=control,
        verifier=Verifier(control, sessions, clock, leeway_s=settings.max_clock_drift_s),
        sessions=sessions,
        queries=queries,
        lookup=SchemaLookup(raw),
        live=LiveHub(live_redis, queries.as_of_us, clock, clients_max=settings.live_clients_max),
        violations=Violations(redis, settings.topic_prefix),
        raw=raw,
        close_redis=close_redis,
    )


def _redis(settings: Settings, timeout_s: float) -> Redis | None:
    if not settings.redis:
        return None
    client: Redis = Redis.from_url(
        settings.redis,
        socket_timeout=timeout_s,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
        max_connections=2048,
    )
    return client
