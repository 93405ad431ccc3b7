"""aiokafka's getmany and our Avro decode, nothing else: the ceiling for a Faust worker."""

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.codec import decode_events

BROKER, TOPIC, PARTITIONS, EVENTS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


async def main() -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=BROKER,
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
        max_poll_records=20_000,
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        done, started = 0, 0.0
        while done < EVENTS:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                started = started or time.perf_counter()
                done += decode_events([record.value for record in records]).events.num_rows
        print(json.dumps({"events": done, "seconds": time.perf_counter() - started, "cpu_s": time.process_time()}))
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main())
