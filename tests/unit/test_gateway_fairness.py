"""One customer's requests leave room and time for another's: shares of the bytes under way, turns on the event loop,
places for bodies that nobody wants."""

import asyncio
from typing import Any

import pytest

from headrace.errors import OverloadedError
from producers.gateway.bodies import (
    BODY_TIMEOUT_S,
    DISCARD_AT_ONCE_BYTES,
    DISCARDS_MAX,
    Discards,
    Incoming,
    read_body,
)
from producers.gateway.deadlines import Deadlines
from producers.gateway.limits import FREE_TIMES, UNIDENTIFIED, InflightBytes, Reservation
from producers.gateway.turns import Turns

BOUND = 9_000


def fill(inflight: InflightBytes, owner: int, piece: int = 10) -> list[Reservation]:
    """As many requests of a size as one customer may have under way."""
    held: list[Reservation] = []
    while True:
        reservation = Reservation(inflight, owner)
        try:
            reservation.grow_to(piece)
        except OverloadedError:
            return held
        held.append(reservation)


def test_a_flood_leaves_room_for_another_customer_and_two_leave_room_for_a_third() -> None:
    inflight = InflightBytes(BOUND)
    first = fill(inflight, 1)
    assert len(first) * 10 == BOUND * FREE_TIMES // (1 + FREE_TIMES) == 6_000
    second = fill(inflight, 2)
    assert len(second) * 10 == 2_000, "twice what is free"
    assert 0 < len(fill(inflight, 3)) * 10 < BOUND - inflight.held + 1_000
    for reservation in first:
        reservation.release()
    assert len(fill(inflight, 2)) > 100, "what is free is to be had"


def test_a_customers_only_request_may_hold_all_that_is_free() -> None:
    inflight = InflightBytes(BOUND)
    only = Reservation(inflight, 1)
    only.grow_to(8_000)
    only.grow_to(BOUND)
    with pytest.raises(OverloadedError):
        Reservation(inflight, 2).grow_to(1)
    only.release()
    assert inflight.held == 0
    fill(inflight, 1)
    with pytest.raises(OverloadedError):
        Reservation(inflight, 1).grow_to(3_000)
    Reservation(inflight, 2).grow_to(3_000)


def test_a_request_counts_for_its_customer_once_that_is_known() -> None:
    inflight = InflightBytes(BOUND)
    flood = fill(inflight, 7)
    late = Reservation(inflight, UNIDENTIFIED)
    late.grow_to(1_000)
    with pytest.raises(OverloadedError):
        late.belongs_to(7)
    late.release()
    assert inflight.held == 6_000
    late = Reservation(inflight, UNIDENTIFIED)
    late.grow_to(1_000)
    late.belongs_to(8)
    late.release()
    for reservation in flood:
        reservation.release()
    Reservation(inflight, UNIDENTIFIED).belongs_to(9)
    assert (inflight.held, inflight.owners) == (0, 0), "nobody who left is remembered"
    assert len(fill(inflight, UNIDENTIFIED)) == 600
    assert len(fill(inflight, 8)) == 200


def test_customers_take_turns_whoever_came_first() -> None:
    async def body() -> None:
        turns, order = Turns(), list[int]()

        async def request(owner: int) -> None:
            await turns.wait(owner)
            order.append(owner)

        flood = [asyncio.create_task(request(1)) for _ in range(50)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(request(owner)) for owner in (2, 3, 2)]
        flood[3].cancel()
        await asyncio.gather(*flood, *others, return_exceptions=True)
        assert len(order) == 52
        assert order.index(2) <= 4
        assert order.index(3) <= 5
        assert [place for place, owner in enumerate(order) if owner == 2][1] <= 8

    asyncio.run(body())


def test_only_one_is_let_through_each_time_round_the_loop() -> None:
    async def body() -> None:
        turns, passed = Turns(), list[int]()

        async def request(owner: int) -> None:
            await turns.wait(owner)
            passed.append(owner)

        tasks = [asyncio.create_task(request(number % 3)) for number in range(9)]
        seen = []
        while len(passed) < 9:
            before = len(passed)
            await asyncio.sleep(0)
            seen.append(len(passed) - before)
        assert max(seen) == 1
        await asyncio.gather(*tasks)

    asyncio.run(body())


class Body:
    """A client that writes pieces when told to; counts who reads them."""

    def __init__(self, pieces: int, declared: int | None = None) -> None:
        self.left = pieces
        self.more = asyncio.Event()
        self.reading = False
        self.incoming = Incoming(self._receive, declared)

    async def _receive(self) -> dict[str, Any]:
        self.reading = True
        await self.more.wait()
        self.left -= 1
        return {"type": "http.request", "body": b"x" * 100, "more_body": self.left > 0}


def test_of_one_customers_refused_bodies_two_are_read_at_a_time_and_anothers_beside_them() -> None:
    async def body() -> None:
        discards = Discards()
        large = [Body(3, 10 * DISCARD_AT_ONCE_BYTES) for _ in range(10)]
        small, other = Body(3, DISCARD_AT_ONCE_BYTES), Body(3)
        tasks = [asyncio.create_task(discards.discard(item.incoming, 1)) for item in (*large, small)]
        tasks.append(asyncio.create_task(discards.discard(other.incoming, 2)))
        await asyncio.sleep(0.01)
        assert [item.reading for item in large] == [True] * DISCARDS_MAX + [False] * (10 - DISCARDS_MAX)
        assert small.reading
        assert other.reading
        for item in (*large, small, other):
            item.more.set()
        await asyncio.gather(*tasks)
        assert all(item.left == 0 for item in (*large, small, other))
        assert not discards.owners
        await discards.discard(other.incoming, 2)  # it ended: asking for more would wait for the client to leave

    asyncio.run(body())


def test_a_body_that_is_only_announced_holds_nothing() -> None:
    async def body() -> None:
        inflight = InflightBytes(BOUND)
        slow = [Body(2, 5_000) for _ in range(20)]
        limits = Deadlines(BODY_TIMEOUT_S)
        tasks = [
            asyncio.create_task(read_body(item.incoming, BOUND, Reservation(inflight, 1), limits)) for item in slow
        ]
        await asyncio.sleep(0.01)
        assert inflight.held == 0
        for item in slow:
            item.more.set()
        await asyncio.gather(*tasks)
        assert inflight.held == 20 * 200
        with pytest.raises(OverloadedError):  # what could not be held now is refused before it is read
            await read_body(Body(1, 6_000).incoming, BOUND, Reservation(inflight, 2), limits)

    asyncio.run(body())
