"""The plain gateway that does what ours does: the write key is checked, events become rows of our schema, Avro by
fastavro, one `produce()` an event, and the answer after Kafka has acknowledged each.

Arguments: PORT KAFKA TOPIC KEY CUSTOMER_ID. The rows come from our own general way (`normalise`), an event at a time;
it has no limits of requests, quotas, policies or metrics.
"""

import asyncio
import io
import sys
import time
from datetime import datetime
from typing import Annotated

import fastavro
import uvicorn
from fastapi import FastAPI, Header, HTTPException

from bench.peers.acknowledging import Acknowledging
from bench.peers.message import Batch, Event
from headrace.settings import Settings
from headrace.shards.policy import OPEN
from headrace.shards.write_keys import hash_write_key
from producers.gateway.normalise import EventLimits, Normaliser, Origin
from producers.gateway.protocols.decoder import RawEvent
from schemas.event import record_key
from schemas.registry import EVENT_ID, prefix, schema

PORT, ADDRESS, TOPIC, KEY, CUSTOMER_ID = sys.argv[1:6]


AVRO = schema(EVENT_ID).parsed
PREFIX = prefix(EVENT_ID)
NAMES = [field["name"] for field in AVRO["fields"]]
customers = {hash_write_key(KEY): int(CUSTOMER_ID)}
normaliser = Normaliser(EventLimits.of(Settings()), lambda: None)
client = Acknowledging(ADDRESS, TOPIC)
app = FastAPI(lifespan=client.polling)


def record(event: Event, sent_at: datetime | None, origin: Origin) -> bytes:
    """The event in wire format."""
    raw = RawEvent(
        event.type,
        event.event,
        event.messageId,
        event.userId,
        event.anonymousId,
        None,
        None,
        None,
        event.timestamp.isoformat(),
        None if sent_at is None else sent_at.isoformat(),
        event.properties,
        event.context,
        0,
        {},
    )
    out = io.BytesIO()
    out.write(PREFIX)
    fastavro.schemaless_writer(out, AVRO, dict(zip(NAMES, normaliser.row(raw, origin), strict=True)))
    return out.getvalue()


@app.post("/v1/batch")
async def batch(body: Batch, x_write_key: Annotated[str, Header()]) -> dict[str, bool]:
    """Answer when each event is acknowledged; 503 when one is not."""
    customer_id = customers.get(hash_write_key(x_write_key))
    if customer_id is None:
        raise HTTPException(401)
    origin = Origin(customer_id, OPEN, time.time_ns() // 1000, "segment-v1", frozenset())
    key, loop = record_key(customer_id), asyncio.get_running_loop()
    sent = [client.produce(key, record(event, body.sentAt, origin), loop) for event in body.batch]
    if any(await asyncio.gather(*sent)):
        raise HTTPException(503)
    return {"success": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), access_log=False)
