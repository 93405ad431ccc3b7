"""Structured logs to stderr: JSON for machines, colours for a terminal.

`configure` is called once, by a process's entry point. Values whose key names a secret are masked, so
that a careless call site cannot leak one.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from headrace.settings import Settings

SECRET_WORDS = ("password", "secret", "token", "authorization", "write_key", "cookie", "dsn")


def configure(settings: Settings, service: str) -> None:
    """Send all logs, the standard library's too, to stderr as `settings.log_format` says."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    as_json = settings.log_format == "json" or not sys.stderr.isatty()
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("aiokafka", "faust", "mode", "urllib3", "httpx", "_granian"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; cheap, safe at module level (it binds lazily)."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the value of every key that names a secret."""
    for key in event:
        if any(word in key.lower() for word in SECRET_WORDS):
            event[key] = "***"
    return event
