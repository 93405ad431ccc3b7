"""Which sinks' positions hold frames back from trimming."""

import pytest

from headrace.errors import ConfigurationError
from headrace.settings import Settings
from streams.trimming import sink_groups


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        (Settings(), ["sink-postgres"]),
        (Settings(clickhouse="http://h:8123/d"), ["sink-postgres", "sink-clickhouse"]),
        (Settings(trim_waits_for="clickhouse, postgres"), ["sink-clickhouse", "sink-postgres"]),
        (Settings(trim_waits_for="postgres", clickhouse="http://h:8123/d"), ["sink-postgres"]),
    ],
)
def test_by_name_or_by_what_is_configured(settings: Settings, groups: list[str]) -> None:
    assert sink_groups(settings) == groups


def test_an_unknown_sink_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'clikhouse', which is no sink"):
        sink_groups(Settings(trim_waits_for="clikhouse"))
