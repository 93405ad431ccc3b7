"""The frame protocol as a randomised model, around the accept rule that recovery and sinks really use.

One partition. Several writers fold a log of events and write frames; some are zombies, some crash with chunks in
flight; chunks land twice, the second time arbitrarily later; a sink and snapshots persist their place while other
frames are half read; `aggregates` is trimmed below the newest snapshot; a rolling deploy changes the fold while old
writers go on; optionally the tail of `aggregates` is lost although it was acknowledged ("unclean").

Invariant: a reader's state at its position is the fold of the log before it, record by record; and every run ends.
A *mutation* removes one guard of the protocol; each must be caught.
"""

import random
from typing import Final

from tests.model.fold import Event, Fold
from tests.model.messages import Message, ModelChunk
from tests.model.reader import Reader, Violation
from tests.model.writer import Lost, Writer

RECORDS: Final = 150
STEPS_MAX: Final = 6000


class World:
    """One seeded run."""

    def __init__(self, seed: int, mutation: str = "", *, unclean: bool = False) -> None:
        self.random = random.Random(seed)
        self.mutation = mutation
        self.unclean = unclean
        self.log: list[Event] = []
        self.aggregates: list[Message] = []
        self.base = 0
        self.snapshots: list[tuple[int, Fold]] = []
        self.late: list[ModelChunk] = []
        self._writers: list[Writer] = []
        self._numbers = 0
        self._new_version_at = self.random.randint(20, 110)
        self._deployed = False
        self._expected: dict[int | None, list[tuple[object, ...]]] = {}
        self._make_log()
        self._sink = self.reader()
        self._disk = (0, Fold())

    @property
    def end(self) -> int:
        """Next offset of `aggregates`."""
        return self.base + len(self.aggregates)

    def reader(self, fold: Fold | None = None, next_offset: int = 0) -> Reader:
        return Reader(self.mutation, alarm=not self.unclean, fold=fold, next_offset=next_offset)

    def land(self, message: Message) -> None:
        """A record is appended to `aggregates`."""
        self.aggregates.append(message)

    def run(self) -> None:
        """Until the sink has it all. Raises Violation, or Lost in an unclean run."""
        for _ in range(STEPS_MAX):
            self._step_writers()
            if self.late and self.random.random() < 0.08:
                self.land(self.late.pop(self.random.randrange(len(self.late))))
            if self.unclean:
                self._truncate()
            self._step_sink()
            self._step_storage()
            if self._sink.fold.position == len(self.log):
                return
        raise Violation(f"never finished: position {self._sink.fold.position} of {len(self.log)}")

    def _make_log(self) -> None:
        random_, receive_time = self.random, 0
        for i in range(RECORDS):
            receive_time += random_.choice([0, 0, 1, 1, 2, 5])
            self.log.append(
                Event(
                    event_id=random_.randrange(30),
                    time=max(0, receive_time - random_.choice([0, 0, 1, 3, 9, 20])),
                    dimension=random_.choice("abcd"),
                    receive_time=max(0, receive_time - random_.choice([0, 0, 3])),
                    schema=2 if i > self._new_version_at - 5 and random_.random() < 0.3 else 1,
                )
            )

    def _step_writers(self) -> None:
        random_ = self.random
        live = [w for w in self._writers if not w.dead]
        choice = random_.random()
        if not self.unclean and self._sink.fold.position > self._new_version_at - 8:
            self._deployed = True
        if not live or (choice < 0.02 and len(live) < 3):
            self._numbers += 1
            self._writers.append(Writer(self, self._numbers, 2 if self._deployed else 1, random_.randrange(2)))
        elif choice < 0.03 and len(live) > 1:
            random_.choice(live).dead = True
        live = [w for w in self._writers if not w.dead]
        if live:
            random_.choice(live).step()

    def _truncate(self) -> None:
        """The log loses an acknowledged tail; writers may or may not notice."""
        random_ = self.random
        if self.aggregates and random_.random() < 0.004:
            del self.aggregates[-random_.randint(1, 4) :]
            self.snapshots = [snapshot for snapshot in self.snapshots if snapshot[0] <= self.end]
            if random_.random() < 0.5:
                for writer in self._writers:
                    writer.dead = True
        self._sink.next_offset = min(self._sink.next_offset, self.end)

    def _step_sink(self) -> None:
        sink = self._sink
        while sink.next_offset < self.end and self.random.random() < 0.7:
            if sink.next_offset < self.base:
                raise Violation("the sink fell off the log")
            if sink.feed(sink.next_offset, self.aggregates[sink.next_offset - self.base]):
                self._check(sink.fold)

    def _step_storage(self) -> None:
        """The sink commits rows and cursor together, crashes; snapshots; trimming."""
        random_, sink = self.random, self._sink
        if random_.random() < 0.05:
            self._disk = (sink.resume_offset, sink.fold.copy())
        if random_.random() < 0.01:
            sink = self._sink = self.reader(self._disk[1].copy(), min(self._disk[0], self.end))
        if random_.random() < 0.02:
            self.snapshots = [*self.snapshots[-2:], (sink.resume_offset, sink.fold.copy())]
        if random_.random() < 0.02 and self.snapshots:
            safe = min(self._disk[0], sink.resume_offset, max(offset for offset, _ in self.snapshots))
            upto = safe if self.mutation != "blindtrim" else self.base + len(self.aggregates) * 2 // 3
            if upto > self.base:
                del self.aggregates[: upto - self.base]
                self.base = upto

    def _check(self, fold: Fold) -> None:
        if fold.state() != self._states(fold.switched_at)[fold.position]:
            raise Violation(f"the state at {fold.position} differs")

    def _states(self, switched_at: int | None) -> list[tuple[object, ...]]:
        """The fold of every prefix of the log, one record at a time."""
        if switched_at not in self._expected:
            fold = Fold()
            states = [fold.state()]
            for offset, event in enumerate(self.log):
                fold.one(event, 2 if switched_at is not None and offset >= switched_at else 1)
                states.append(fold.state())
            self._expected[switched_at] = states
        return self._expected[switched_at]


def first_violation(seeds: range, mutation: str = "", *, unclean: bool = False) -> str | None:
    """The first seed that breaks the protocol, and how; None when none does."""
    for seed in seeds:
        try:
            World(seed, mutation, unclean=unclean).run()
        except Lost:
            continue
        except Violation as violation:
            return f"seed {seed}: {violation}"
    return None
