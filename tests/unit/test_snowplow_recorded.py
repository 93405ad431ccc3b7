"""What real Snowplow trackers sent yields the canonical events that were recorded with it, and what a device's
tracker tells besides finds its place."""

import base64
import json
from typing import Any

import pytest

from producers.gateway.protocols import snowplow
from producers.gateway.protocols.decoder import Decoder, Request, RouteTable
from tests.unit.round_trip import decode, stored
from tests.unit.sdk_requests import Recorded, microseconds, recorded

TABLE = RouteTable(snowplow.routes())
DRIVERS = frozenset(("snowplow-python-post",))
RECORDED = recorded(DRIVERS)
RECEIVED_US = microseconds("2026-11-24T16:14:10.000Z")

# As @snowplow/node-tracker 4.8.0 sent them: what all events carry, then each with its own fields.
NODE = {
    "p": "srv", "tv": "node-4.8.0", "tna": "sp", "aid": "wk_test", "uid": "u1", "lang": "de-CH", "res": "1920x1080",
    "ua": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "duid": "d1", "nuid": "n1", "sid": "sess", "vid": "3", "stm": "1795536848559",
}  # fmt: skip
NODE_PAGE = {
    "e": "pv", "url": "https://ex.com/a?utm_source=nl", "page": "T é", "refr": "https://r.example/",
    "eid": "7c578f22-566f-4a22-bdcd-3d8669f9db76", "ttm": "1709164835332",
    "cx": "eyJzY2hlbWEiOiJpZ2x1OmNvbS5zbm93cGxvd2FuYWx5dGljcy5zbm93cGxvdy9jb250ZXh0cy9qc29uc2NoZW1hLzEtMC0wIiwiZGF0"
          "YSI6W3sic2NoZW1hIjoiaWdsdTpjb20uYWNtZS9jdHgvanNvbnNjaGVtYS8xLTAtMCIsImRhdGEiOnsiYSI6IsOpPz8-Pn5-IiwibiI6"
          "MX19XX0",
}  # fmt: skip
NODE_PING = {
    "e": "pp", "url": "https://ex.com/a", "page": "T", "pp_mix": "1", "pp_may": "7",
    "eid": "9797b579-b8f6-434c-aa98-d493ad78661c", "dtm": "1795536848558",
}  # fmt: skip
NODE_BOUGHT = {
    "e": "ue", "eid": "f0b584dc-47b6-4c94-9dd9-95a2ab703409", "dtm": "1795536848558",
    "ue_px": "eyJzY2hlbWEiOiJpZ2x1OmNvbS5zbm93cGxvd2FuYWx5dGljcy5zbm93cGxvdy91bnN0cnVjdF9ldmVudC9qc29uc2NoZW1hLzEtMC0"
             "wIiwiZGF0YSI6eyJzY2hlbWEiOiJpZ2x1OmNvbS5hY21lL2JvdWdodC9qc29uc2NoZW1hLzEtMC0wIiwiZGF0YSI6eyJwcmljZSI6Mywi"
             "eCI6IsOpPz8-Pn5-In19fQ",
}  # fmt: skip
NODE_SCREEN = {
    "e": "ue", "eid": "c1580f07-9259-4435-b1aa-623bd210b986", "dtm": "1795536848992",
    "ue_pr": '{"schema":"iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0","data":{"schema":'
             '"iglu:com.snowplowanalytics.snowplow/screen_view/jsonschema/1-0-0","data":{"name":"S","id":"i"}}}',
}  # fmt: skip
NODE_ORDER = {
    "e": "tr", "tr_id": "o", "tr_tt": "12.5", "tr_cu": "EUR", "eid": "724500e6-13d8-4c6c-8ba0-a3159c677f93",
    "dtm": "1795536848558",
}  # fmt: skip
NODE_ITEM = {
    "e": "ti", "ti_id": "o", "ti_sk": "k", "ti_pr": "3", "ti_qu": "2", "eid": "933ee6bc-7fbd-4ccd-bd92-110781175d83",
    "dtm": "1795536848558",
}  # fmt: skip
NODE_CONTEXT = {
    "contexts": None, "locale": "de-CH", "userAgent": NODE["ua"], "screen": {"width": 1920, "height": 1080},
    "tp2": {"nuid": "n1", "vid": "3"},
}  # fmt: skip


def decoder_of(path: str) -> Decoder:
    found = TABLE.find(path)
    assert found is not None
    assert found[0].decoder is not None
    return found[0].decoder


def by_post(*events: dict[str, Any]) -> list[dict[str, Any]]:
    decoder = decoder_of(snowplow.POST_PATH)
    body = json.dumps({"schema": "iglu:…", "data": events}).encode()
    request = Request("POST", snowplow.POST_PATH, "http", {}, {}, body, RECEIVED_US, {}, False)
    return stored(decoder, request)[1]


def by_get(event: dict[str, Any]) -> dict[str, Any]:
    decoder = decoder_of(snowplow.GET_PATH)
    request = Request("GET", snowplow.GET_PATH, "http", event, {}, b"", RECEIVED_US, {}, False)
    _, (row,) = stored(decoder, request)
    return row


@pytest.mark.parametrize("item", RECORDED, ids=str)
def test_recorded_request_yields_its_events(item: Recorded) -> None:
    decoded, rows = decode(item)
    assert len(rows) == len(item.expect) > 0
    for row, expect in zip(rows, item.expect, strict=True):
        assert row["customer_id"] == 7
        assert row["protocol"] == expect["protocol"]
        assert row["message_id"] == expect["message_id"]
        assert row["type"] == expect["type"]
        assert row["name"] == (expect["event"] or "")
        for column in ("user_id", "anonymous_id", "group_id", "previous_id"):
            assert row[column] == expect[column], column
        assert json.loads(row["properties"]) == expect["properties"]
        assert json.loads(row["context"]) == expect["context"]
        assert row["received_at_us"] == microseconds(expect["received_at"])
        assert row["sent_at_us"] == (expect["sent_at"] and microseconds(expect["sent_at"]))
        assert row["original_timestamp_us"] == microseconds(expect["timestamp"])
        assert row["timestamp_us"] == microseconds(expect["timestamp"])
    assert decoded.write_keys == [item.expect[0]["write_key"]]


@pytest.mark.parametrize("item", RECORDED, ids=str)
def test_clocks_that_differ_by_more_than_a_minute_move_events_without_a_true_time(item: Recorded) -> None:
    _, rows = decode(item, 61_000_000)
    moved = 0
    for row, expect in zip(rows, item.expect, strict=True):
        shift = 0 if expect["sent_at"] is None else 61_000_000
        assert row["timestamp_us"] == microseconds(expect["corrected"]) + shift
        moved += bool(shift)
    assert 0 < moved < len(rows)


@pytest.mark.parametrize("item", RECORDED, ids=str)
def test_base64_and_get_yield_the_same_as_plain_json_by_post(item: Recorded) -> None:
    _, rows = decode(item)
    for row, event in zip(rows, json.loads(item.body)["data"], strict=True):
        for plain, encoded in (("ue_pr", "ue_px"), ("co", "cx")):
            if plain in event:
                event[encoded] = base64.urlsafe_b64encode(event.pop(plain).encode()).decode()
        decoder = decoder_of(snowplow.GET_PATH)
        request = Request("GET", "/i", "http", event, {}, b"", item.received_at_us, {}, False)
        assert len(decoder.decode(request, 1).events) == 1, "one event needs room for one"
        decoded, again = stored(decoder, request)
        assert decoded.write_keys == ["wk_test"]
        assert again == [row]


def test_what_the_node_tracker_sends() -> None:
    events = [
        {**NODE, **own}
        for own in (NODE_PAGE, NODE_PING, NODE_BOUGHT, NODE_SCREEN, NODE_ORDER, NODE_ITEM)
    ]  # fmt: skip
    rows = by_post(*events)
    assert [(row["type"], row["name"]) for row in rows] == [
        ("page", "T é"), ("track", "page_ping"), ("track", "bought"), ("screen", "S"), ("track", "transaction"),
        ("track", "transaction_item"),
    ]  # fmt: skip
    for row in rows:
        assert (row["user_id"], row["anonymous_id"], row["session_id"]) == ("u1", "d1", "sess")
    page, ping, bought, screen, order, item = rows
    assert json.loads(page["context"])["contexts"] == [
        {"schema": "iglu:com.acme/ctx/jsonschema/1-0-0", "data": {"a": "é??>>~~", "n": 1}}
    ]
    assert (page["path"], page["referrer_domain"], page["utm_source"]) == ("/a", "r.example", "nl")
    assert json.loads(ping["properties"]) == {"pp_mix": "1", "pp_may": "7"}
    assert json.loads(ping["context"]) == {**NODE_CONTEXT, "page": {"url": "https://ex.com/a", "title": "T"}}
    assert json.loads(bought["properties"]) == {"price": 3, "x": "é??>>~~"}
    assert json.loads(screen["properties"]) == {"name": "S", "id": "i"}
    assert json.loads(screen["context"]) == NODE_CONTEXT
    assert (order["value_e6"], order["currency"]) == (12_500_000, "EUR")
    assert json.loads(order["properties"]) == {
        "tr_id": "o", "tr_tt": "12.5", "tr_cu": "EUR", "total": "12.5", "currency": "EUR",
    }  # fmt: skip
    assert json.loads(item["properties"]) == {"ti_id": "o", "ti_sk": "k", "ti_pr": "3", "ti_qu": "2"}
    assert [by_get(event) for event in events] == rows


def test_a_device_tells_its_tracker_and_platform() -> None:
    (row,) = by_post(
        {**NODE, "e": "se", "se_ac": "tap", "p": "web", "tv": "js-4.10.1", "vp": "800x600", "res": "odd",
         "ip": "192.0.2.1"}
    )  # fmt: skip
    context = json.loads(row["context"])
    assert row["library"] == "snowplow-js/4.10.1"
    assert context["library"] == {"name": "snowplow-js", "version": "4.10.1", "namespace": "sp"}
    assert (context["platform"], context["ip"], context["screen"]) == ("web", "192.0.2.1", {"size": "odd"})
    assert context["tp2"] == {"nuid": "n1", "vid": "3", "vp": "800x600"}


def test_known_entities_are_told_by_their_usual_names_too() -> None:
    entities = [
        {"schema": f"iglu:{schema}/jsonschema/1-0-2", "data": data}
        for schema, data in (
            ("com.snowplowanalytics.snowplow/client_session", {"sessionId": "s", "userId": "device"}),
            ("com.snowplowanalytics.snowplow/client_session", {"sessionId": "later"}),
            ("com.snowplowanalytics.snowplow/mobile_context",
             {"osType": "ios", "osVersion": "17", "deviceManufacturer": "Apple", "deviceModel": "iPad14,1"}),
            ("com.snowplowanalytics.mobile/application", {"version": "1.2", "build": "7"}),
            ("com.snowplowanalytics.snowplow/geolocation_context", {"latitude": 47.4, "longitude": 8.5}),
            ("com.snowplowanalytics.snowplow/web_page", {"id": "x"}),
        )
    ]  # fmt: skip
    co = json.dumps({"schema": "iglu:…", "data": entities})
    (row,) = by_post({"e": "se", "se_ac": "tap", "eid": "1", "aid": "k", "co": co})
    context = json.loads(row["context"])
    assert context == {
        "contexts": entities,
        "os": {"name": "iOS", "version": "17"},
        "device": {"type": "tablet", "manufacturer": "Apple", "model": "iPad14,1"},
        "app": {"version": "1.2", "build": "7"},
        "location": {"latitude": 47.4, "longitude": 8.5},
    }
    assert (row["session_id"], row["anonymous_id"]) == ("s", "device")
    assert (row["os"], row["device"], row["country"]) == ("iOS", "tablet", None)
