"""The frame protocol as a randomised model, around the accept rule that recovery and sinks really use.

One partition. Several writers fold a log of events and write frames; some are zombies, some crash with chunks in
flight; chunks land twice, the second time arbitrarily later; a sink and snapshots persist their place while other
frames are half read; `aggregates` is trimmed below the newest snapshot; a rolling deploy changes the fold while old
writers go on; optionally the tail of `aggregates` is lost although it was acknowledged ("unclean").

Invariant: a reader's state at its position is the fold of the log before it, record by record; and every run ends.
A *mutation* removes one guard of the protocol; each must be caught.
"""

import random
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from schemas.accept import AcceptRule, Outcome
from schemas.frame import FrameChunk, FrameHeader

HOUR: Final = 6
"""Width of a dedupe bucket, in the model's time."""
HOURS_KEPT: Final = 2
WINDOW: Final = 4
BOUND: Final = 2
TUPLES_MAX: Final = 2
RECORDS: Final = 150
STEPS_MAX: Final = 6000
OTHER: Final = "(other)"

MUTATIONS: Final = {
    "nowriter": "chunks of all writers are assembled together",
    "keywriter": "chunks are assembled per writer, in strict order",
    "procid": "the writer id is per process, not per assignment",
    "nochunks": "a frame is applied at its first chunk",
    "acceptany": "frames that end below the position are applied",
    "delta": "rows are increments, not absolute values",
    "ackless": "a writer goes on after a failed send",
    "ackless+nofrom": "as before, and readers apply frames that start past their position",
    "naiveresume": "a restart resumes at the next offset, past half-read frames",
    "blindtrim": "frames are trimmed without asking snapshots and sinks",
    "nocut": "a batch is not cut where the monotone receive hour changes",
    "evictearly": "final rows leave memory before their frame is acknowledged",
    "noslots": "frames do not carry the cardinality slots",
    "nort": "frames do not carry the monotone receive time",
    "noversion": "frames of any fold version are applied",
    "blindclaim": "a new version's claim takes effect wherever the position is",
}
UNCLEAN_MUTATIONS: Final = {
    "stopgap": "a reader stops at a gap instead of reading on",
    "nofrom": "readers apply frames that start past their position",
}


class Violation(Exception):
    """The protocol broke: a state differs, a gap where none may be, or a run that does not end."""


class Lost(Exception):
    """Unclean only: the newest snapshots were truncated away too. The operator replays; that is allowed."""


class Event(NamedTuple):
    """One record of the source log."""

    event_id: int
    time: int
    dimension: str
    receive_time: int
    schema: int


Window = tuple[int, int]
Row = tuple[int, int, str]


@dataclass(slots=True)
class Touched:
    """What changed since the last frame."""

    rows: set[Row] = field(default_factory=set)
    ids: set[int] = field(default_factory=set)
    windows: set[Window] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Payload:
    """What a chunk carries: absolute values."""

    rows: dict[Row, int]
    seen: dict[int, int]
    slots: dict[Window, tuple[str, ...]]
    watermark: int
    receive_time: int


@dataclass(frozen=True, slots=True)
class ModelChunk(FrameChunk):
    """A chunk as the real accept rule takes it, with the model's payload."""

    process: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Claim:
    """A new fold version announces itself at a position."""

    version: int
    position: int


Message = ModelChunk | Claim


@dataclass(slots=True)
class Fold:
    """Windows with late generations, dedupe by receive hour, bounded cardinality: what makes order matter."""

    position: int = 0
    watermark: int = 0
    receive_time: int = 0
    seen: dict[int, int] = field(default_factory=dict)
    rows: dict[Row, int] = field(default_factory=dict)
    slots: dict[Window, tuple[str, ...]] = field(default_factory=dict)
    version: int = 1
    switched_at: int | None = None

    def copy(self) -> "Fold":
        return replace(self, seen=dict(self.seen), rows=dict(self.rows), slots=dict(self.slots))

    def state(self) -> tuple[object, ...]:
        """All that later events may depend on, and all that is counted."""
        live = sorted((i, hour) for i, hour in self.seen.items() if hour > self.receive_time // HOUR - HOURS_KEPT)
        return (
            self.position,
            self.watermark,
            self.receive_time,
            tuple(live),
            tuple(sorted(self.rows.items())),
            tuple(sorted(self.slots.items())),
        )

    def one(self, event: Event, version: int) -> None:
        """The definition: one record at a time."""
        self.receive_time = max(self.receive_time, event.receive_time)
        hour = self.receive_time // HOUR
        if not _is_poison(event, version):
            if self.seen.get(event.event_id, -99) <= hour - HOURS_KEPT:
                self.seen[event.event_id] = hour
                self._count(event, Touched())
            self.watermark = max(self.watermark, event.time - BOUND)
        self.position += 1

    def batch(self, events: list[Event], version: int, touched: Touched, mutation: str) -> None:
        """The columnar way: cut where the monotone receive hour changes, duplicates decided per cut."""
        start = 0
        while start < len(events):
            end, hour = self._cut(events, start, mutation)
            live = {i for i, seen_in in self.seen.items() if seen_in > hour[0] - HOURS_KEPT}
            fresh: set[int] = set()
            for event in events[start:end]:
                self.receive_time = max(self.receive_time, event.receive_time)
                if _is_poison(event, version):
                    continue
                if event.event_id not in live and event.event_id not in fresh:
                    fresh.add(event.event_id)
                    self.seen[event.event_id] = hour[1]
                    touched.ids.add(event.event_id)
                    self._count(event, touched)
                self.watermark = max(self.watermark, event.time - BOUND)
            self.position += end - start
            start = end

    def _cut(self, events: list[Event], start: int, mutation: str) -> tuple[int, tuple[int, int]]:
        """End of the cut that begins at `start`, and its receive hour (for expiry, and as it is stored)."""
        end, first_hour, latest = start, -1, self.receive_time
        while end < len(events):
            later = max(latest, events[end].receive_time)
            if first_hour < 0:
                first_hour = later // HOUR
            elif later // HOUR != first_hour and mutation != "nocut":
                break
            latest = later
            end += 1
        return end, (first_hour, latest // HOUR if mutation == "nocut" else first_hour)

    def _count(self, event: Event, touched: Touched) -> None:
        start = event.time // WINDOW
        generation = 0 if (start + 1) * WINDOW > self.watermark else self.watermark // WINDOW + 1
        window = (start, generation)
        known = self.slots.get(window, ())
        if event.dimension not in known and len(known) < TUPLES_MAX:
            known += (event.dimension,)
            self.slots[window] = known
            touched.windows.add(window)
        row = (start, generation, event.dimension if event.dimension in known else OTHER)
        self.rows[row] = self.rows.get(row, 0) + 1
        touched.rows.add(row)


def _is_poison(event: Event, version: int) -> bool:
    """The first fold version does not know the second schema."""
    return event.schema == 2 and version == 1


@dataclass(slots=True)
class _Part:
    """A half-read frame of the mutant rule."""

    first_offset: int
    seq: int
    chunks: dict[int, ModelChunk] = field(default_factory=dict)


@dataclass(slots=True)
class MutantRule:
    """The accept rule written once more, plainly, so that single guards can be left out."""

    mutation: str
    position: int
    next_offset: int
    fold_version: str | None
    _parts: dict[tuple[object, ...], _Part] = field(default_factory=dict)

    @property
    def resume_offset(self) -> int:
        if self.mutation == "naiveresume":
            return self.next_offset
        return min([self.next_offset, *(part.first_offset for part in self._parts.values())])

    def feed(self, record_offset: int, chunk: ModelChunk) -> tuple[Outcome, list[ModelChunk]]:
        self.next_offset = record_offset + 1
        header, mutation = chunk.header, self.mutation
        if mutation != "noversion" and header.fold_version != self.fold_version:
            return Outcome.OTHER_VERSION, []
        if mutation != "acceptany" and header.to_offset <= self.position:
            return Outcome.STALE, []
        key = self._key(chunk)
        part = self._part(key, record_offset, chunk)
        if part is None:
            return Outcome.INCOMPLETE, []
        part.chunks[header.chunk] = chunk
        if mutation != "nochunks" and len(part.chunks) < header.chunks:
            return Outcome.INCOMPLETE, []
        del self._parts[key]
        got = list(part.chunks.values())
        if got[0].header.from_offset > self.position and not mutation.endswith("nofrom"):
            return Outcome.GAP, []
        self.position = max(c.header.to_offset for c in got)
        self._parts = {k: p for k, p in self._parts.items() if _end(p) > self.position}
        return Outcome.ACCEPTED, got

    def _key(self, chunk: ModelChunk) -> tuple[object, ...]:
        if self.mutation == "nowriter":
            return ()
        if self.mutation == "keywriter":
            return (chunk.header.writer,)
        if self.mutation == "procid":
            return (chunk.process, chunk.header.seq)
        return (chunk.header.writer, chunk.header.seq)

    def _part(self, key: tuple[object, ...], record_offset: int, chunk: ModelChunk) -> _Part | None:
        header = chunk.header
        if self.mutation != "keywriter":
            return self._parts.setdefault(key, _Part(record_offset, header.seq))
        if header.chunk == 0:
            self._parts[key] = _Part(record_offset, header.seq)
        part = self._parts.get(key)
        if part is None or part.seq != header.seq or len(part.chunks) != header.chunk:
            self._parts.pop(key, None)
            return None
        return part


def _end(part: _Part) -> int:
    return next(iter(part.chunks.values())).header.to_offset if part.chunks else 0


RULE_MUTATIONS: Final = frozenset(
    [
        "nowriter",
        "keywriter",
        "procid",
        "nochunks",
        "acceptany",
        "naiveresume",
        "noversion",
        "nofrom",
        "ackless+nofrom",
    ]
)


class Reader:
    """Applies `aggregates` to a fold: a sink, or a recovery. `alarm`: a gap is a violation."""

    def __init__(self, mutation: str, *, alarm: bool, fold: Fold | None = None, next_offset: int = 0) -> None:
        self.mutation = mutation
        self.alarm = alarm
        self.fold = fold or Fold()
        self.gaps = 0
        self._rule = self._new_rule(next_offset)

    @property
    def next_offset(self) -> int:
        return self._rule.next_offset

    @next_offset.setter
    def next_offset(self, offset: int) -> None:
        self._rule.next_offset = offset

    @property
    def resume_offset(self) -> int:
        """Where a restart that holds `fold` must begin."""
        return self._rule.resume_offset

    def feed(self, offset: int, message: Message) -> bool:
        """Take the record at `offset`; True when it moved the fold."""
        if isinstance(message, Claim):
            self._on_claim(offset, message)
            return False
        rule = self._rule
        if isinstance(rule, MutantRule):
            outcome, chunks = rule.feed(offset, message)
        else:
            outcome, frame = rule.feed(offset, message)
            chunks = [c for c in frame.chunks if isinstance(c, ModelChunk)] if frame is not None else []
        if outcome is Outcome.GAP:
            self.gaps += 1
            if self.alarm or self.mutation == "stopgap":
                raise Violation(f"gap: from {message.header.from_offset} > position {self.fold.position}")
        if outcome is not Outcome.ACCEPTED:
            return False
        self._apply(chunks)
        return True

    def _apply(self, chunks: list[ModelChunk]) -> None:
        fold = self.fold
        for chunk in chunks:
            payload = chunk.payload
            for row, value in payload.rows.items():
                fold.rows[row] = fold.rows.get(row, 0) + value if self.mutation == "delta" else value
            fold.seen.update(payload.seen)
            fold.slots.update(payload.slots)
            fold.watermark, fold.receive_time = payload.watermark, payload.receive_time
        fold.position = self._rule.position

    def _on_claim(self, offset: int, claim: Claim) -> None:
        """Compare and set in the log: it takes effect only if nobody moved the position since it was written."""
        fold = self.fold
        self._rule.next_offset = offset + 1
        if claim.version <= fold.version:
            return
        if self.mutation == "noversion":
            fold.version, fold.switched_at = claim.version, claim.position
        elif claim.position == fold.position or self.mutation == "blindclaim":
            fold.version, fold.switched_at = claim.version, claim.position
            self._rule = self._new_rule(offset + 1)

    def _new_rule(self, next_offset: int) -> AcceptRule | MutantRule:
        position, version = self.fold.position, str(self.fold.version)
        if self.mutation in RULE_MUTATIONS:
            return MutantRule(self.mutation, position, next_offset, version)
        return AcceptRule(position=position, next_offset=next_offset, fold_version=version)


class Writer:
    """One assignment: recovers from the log, folds, writes frames. Alive until it crashes or gives up."""

    def __init__(self, world: "World", number: int, version: int, process: int) -> None:
        self.world = world
        self.writer = f"{number:032x}"
        self.version = version
        self.process = process
        self.dead = False
        self._seq = 0
        self._recover()

    def step(self) -> None:
        """Do one thing: claim, fold a batch, cut a frame, or send some of its chunks."""
        world, random_ = self.world, self.world.random
        if not self._ready:
            self._claim()
            return
        choice = random_.random()
        if choice < 0.4:
            position = self._fold.position
            events = world.log[position : position + random_.randint(1, 6)]
            if events:
                self._fold.batch(events, self.version, self._touched, world.mutation)
        elif choice < 0.6 and not self._unsent and self._fold.position > self._from:
            self._cut_frame()
        elif self._unsent:
            self._send()

    def _recover(self) -> None:
        world = self.world
        usable = [snapshot for snapshot in world.snapshots if snapshot[0] >= world.base]
        if usable:
            offset, fold = world.random.choice(usable)
            reader = world.reader(fold.copy(), offset)
        elif world.base == 0:
            reader = world.reader()
        elif world.unclean:
            raise Lost
        else:
            raise Violation("no snapshot that the log still reaches")
        for offset in range(reader.next_offset, world.end):
            reader.feed(offset, world.aggregates[offset - world.base])
        self._fold = reader.fold.copy()
        self._from = self._fold.position
        self._touched = Touched()
        self._unsent: list[ModelChunk] = []
        self._to = self._from
        self._ready = self._fold.version == self.version
        if self._fold.version > self.version:
            self.dead = world.mutation != "noversion"

    def _claim(self) -> None:
        """Claim the new version, read back up to the claim, and go on only if it took."""
        self.world.land(Claim(self.version, self._fold.position))
        if self.world.mutation in ("blindclaim", "noversion"):
            self._ready = True
        else:
            self._recover()

    def _cut_frame(self) -> None:
        world, fold, touched = self.world, self._fold, self._touched
        self._seq += 1
        count = world.random.randint(1, 4)
        rows = sorted(touched.rows)
        if world.mutation == "evictearly":
            rows = [row for row in rows if row[1] or (row[0] + 1) * WINDOW > fold.watermark]
        windows = touched.windows if world.mutation != "noslots" else set()
        header = FrameHeader(
            partition=0,
            from_offset=self._from,
            to_offset=fold.position,
            writer=self.writer,
            seq=self._seq,
            chunks=count,
            fold_version=str(self.version),
            topic_id="",
            watermark_us=0,
            receive_us=0,
            last_crc=0,
        )
        self._unsent = [
            ModelChunk(
                replace(header, chunk=i),
                (),
                NO_DUPLICATES,
                (),
                self.process,
                Payload(
                    rows={row: fold.rows[row] if world.mutation != "delta" else 1 for row in rows[i::count]},
                    seen={e: fold.seen[e] for e in touched.ids} if i == 0 else {},
                    slots={w: fold.slots[w] for w in windows} if i == 0 else {},
                    watermark=fold.watermark,
                    receive_time=fold.receive_time if world.mutation != "nort" else 0,
                ),
            )
            for i in range(count)
        ]
        self._to = fold.position
        self._touched = Touched()

    def _send(self) -> None:
        """Several chunks in flight: each may fail while the next lands; then the writer stops (rule L)."""
        world, random_ = self.world, self.world.random
        flight = self._unsent[: random_.randint(1, 3)]
        del self._unsent[: len(flight)]
        failed = False
        for chunk in flight:
            if random_.random() < 0.03:
                failed = True
                if random_.random() < 0.5:
                    world.land(chunk)
                elif random_.random() < 0.3:
                    world.late.append(chunk)
            else:
                world.land(chunk)
                if random_.random() < 0.12:
                    world.late.append(chunk)
        if failed and not world.mutation.startswith("ackless"):
            self.dead = True
        elif failed:
            self._unsent = []
            self._from = self._to
        elif not self._unsent:
            self._from = self._to


NO_DUPLICATES: Final = np.empty(0, dtype=np.int64)


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
