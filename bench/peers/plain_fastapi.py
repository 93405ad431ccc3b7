"""A gateway as one would first write it: FastAPI, pydantic models, one `produce()` an event.

Arguments: PORT KAFKA TOPIC.
It answers without waiting for Kafka, knows no keys and checks nothing but types: it promises less than ours.
"""

import sys

import uvicorn
from fastapi import FastAPI

from bench.peers.message import Batch
from headrace import kafka
from headrace.settings import Settings

PORT, ADDRESS, TOPIC = sys.argv[1:4]


app = FastAPI()
producer = kafka.producer(Settings(kafka=ADDRESS))


@app.post("/v1/batch")
async def batch(body: Batch) -> dict[str, bool]:
    """Hand each event to Kafka's client."""
    for event in body.batch:
        while True:
            try:
                producer.produce(TOPIC, event.model_dump_json().encode(), key=(event.userId or "").encode())
                break
            except BufferError:
                producer.poll(0.05)
    producer.poll(0)
    return {"success": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), access_log=False)
