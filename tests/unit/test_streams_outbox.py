"""An outbox that is closed lets everybody go, also who waits for room in its queue."""

import asyncio

from headrace.settings import Settings
from streams.outbox import Outbox, OutgoingRecord

NOWHERE = "127.0.0.1:1"
RECORD_BYTES = 8_000_000
RECORDS = 40
"""More than the queue's 256 MiB."""


def test_a_sender_that_waits_for_room_is_let_go_at_close() -> None:
    async def scenario() -> None:
        outbox = Outbox(Settings(kafka=NOWHERE))
        value = bytes(RECORD_BYTES)
        sending = asyncio.create_task(outbox.send([OutgoingRecord("aggregates", value, 0)] * RECORDS))
        await asyncio.sleep(0.5)
        assert not sending.done()
        outbox.close()
        done, _ = await asyncio.wait([sending], timeout=5)
        assert done, "still waits for room although nobody sends any more"
        assert sending.cancelled()

    asyncio.run(scenario())
