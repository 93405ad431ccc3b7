"""Quix Streams: Avro decode and a tumbling count by minute. Run by a Python that has quixstreams and fastavro."""

import io
import json
import os
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path

import fastavro
from quixstreams import Application

BROKER, TOPIC, SECONDS, SCHEMA, STATE = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4], sys.argv[5]

with Path(SCHEMA).open(encoding="utf-8") as file:
    avro = fastavro.parse_schema(json.load(file))
app = Application(
    broker_address=BROKER,
    consumer_group="quix" + uuid.uuid4().hex[:8],
    auto_offset_reset="earliest",
    state_dir=STATE,
    loglevel="ERROR",
)
topic = app.topic(TOPIC, key_deserializer="bytes", value_deserializer="bytes")
frame = app.dataframe(topic)
done = 0
started = 0.0


def decode(value: bytes) -> object:
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), avro, None)


def stop_in_time(value: object) -> None:
    global done, started  # noqa: PLW0603 (a script with one loop)
    if not done:
        started = time.perf_counter()
    done += 1
    if done % 2000 == 0 and time.perf_counter() - started > SECONDS:
        spent = time.perf_counter() - started
        print(json.dumps({"events": done, "seconds": spent, "cpu_s": time.process_time()}), flush=True)
        os._exit(0)


frame = frame.apply(decode).tumbling_window(timedelta(minutes=1)).count().current()
frame = frame.update(stop_in_time)

if __name__ == "__main__":
    app.run()
