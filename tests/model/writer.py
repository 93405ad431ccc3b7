"""One who folds the log and writes frames: a worker's assignment, a zombie, an old version during a deploy."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from schemas.frame import FrameHeader
from tests.model.fold import WINDOW, Touched
from tests.model.messages import Claim, ModelChunk, Payload
from tests.model.reader import Violation

if TYPE_CHECKING:
    from tests.model.frame_protocol import World

NO_DUPLICATES: Final = np.empty(0, dtype=np.int64)


class Lost(Exception):
    """Unclean only: the newest snapshots were truncated away too. The operator replays; that is allowed."""


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
