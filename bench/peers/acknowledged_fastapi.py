"""The plain gateway with our promise: FastAPI, pydantic models, one `produce()` an event, and the answer after Kafka
has acknowledged each. Arguments: PORT KAFKA TOPIC.

Like `plain_fastapi` it knows no keys and checks nothing but types.
"""

import asyncio
import sys

import uvicorn
from fastapi import FastAPI, HTTPException

from bench.peers.acknowledging import Acknowledging
from bench.peers.message import Batch

PORT, ADDRESS, TOPIC = sys.argv[1:4]


client = Acknowledging(ADDRESS, TOPIC)
app = FastAPI(lifespan=client.polling)


@app.post("/v1/batch")
async def batch(body: Batch) -> dict[str, bool]:
    """Answer when each event is acknowledged; 503 when one is not."""
    loop = asyncio.get_running_loop()
    sent = [
        client.produce((event.userId or "").encode(), event.model_dump_json().encode(), loop) for event in body.batch
    ]
    if any(await asyncio.gather(*sent)):
        raise HTTPException(503)
    return {"success": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), access_log=False)
