"""Faust as its tutorial has it: one table counter, one event at a time. Prints JSON lines of events and seconds."""

import json
import os
import sys
import time

import faust

BROKER, TOPIC, PARTITIONS, SECONDS = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

app = faust.App(
    "naive",
    broker="kafka://" + BROKER,
    topic_partitions=PARTITIONS,
    datadir=sys.argv[5],
    web_enabled=False,
)
topic = app.topic(
    TOPIC, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw", partitions=PARTITIONS
)
counts = app.Table("counts", default=int, partitions=PARTITIONS)
done = 0
started = 0.0


@app.agent(topic)  # type: ignore[untyped-decorator] # faust has no types
async def count(stream: faust.Stream) -> None:
    global done, started  # noqa: PLW0603 (a script with one loop)
    async for key, _ in stream.items():  # noqa: PERF102 (a stream is no dict)
        counts[key] += 1
        if not done:
            started = time.perf_counter()
        done += 1
        if done % 2000 == 0 and time.perf_counter() - started > SECONDS:
            spent = time.perf_counter() - started
            print(json.dumps({"events": done, "seconds": spent, "cpu_s": time.process_time()}), flush=True)
            os._exit(0)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "-l", "warn", "--without-web"]
    app.main()
