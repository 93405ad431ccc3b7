"""Time limits with one timer for all: a late wait ends, and nothing else does."""

import asyncio
from itertools import pairwise

import pytest

from producers.gateway import deadlines
from producers.gateway.deadlines import Deadlines


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "SWEEP_S", 0.01)


async def late(limits: Deadlines) -> str:
    try:
        with limits.limit():
            await asyncio.sleep(5)
    except TimeoutError:
        task = asyncio.current_task()
        assert task is not None
        return "late" if not task.cancelling() else "late, and still being cancelled"
    return "in time"


def test_a_late_wait_ends_and_its_task_goes_on() -> None:
    async def run() -> list[str]:
        limits = Deadlines(0.05)
        return await asyncio.gather(*[late(limits) for _ in range(20)])

    assert asyncio.run(run()) == ["late"] * 20


def test_a_wait_that_ended_is_let_alone_and_forgotten() -> None:
    async def run() -> int:
        limits = Deadlines(0.05)
        for _ in range(100):
            with limits.limit():
                await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        return len(limits._open)

    assert asyncio.run(run()) == 0


def test_waits_end_in_the_order_in_which_they_began() -> None:
    async def run() -> list[float]:
        limits, ends = Deadlines(0.1), []

        async def one() -> None:
            with pytest.raises(TimeoutError):
                with limits.limit():
                    await asyncio.sleep(5)
            ends.append(asyncio.get_running_loop().time())

        tasks = []
        for _ in range(5):
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(0.03)
        await asyncio.gather(*tasks)
        return ends

    assert all(later > earlier for earlier, later in pairwise(asyncio.run(run())))


def test_another_cancellation_stays_one() -> None:
    async def run() -> None:
        task = asyncio.create_task(late(Deadlines(30)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_cancellation_at_the_same_moment_wins() -> None:
    async def run() -> None:
        limits = Deadlines(30)
        task = asyncio.create_task(late(limits))
        await asyncio.sleep(0)
        limits._open[0].expire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_an_error_of_the_wait_is_its_own() -> None:
    async def run() -> None:
        with Deadlines(30).limit():
            raise ValueError

    with pytest.raises(ValueError):
        asyncio.run(run())
