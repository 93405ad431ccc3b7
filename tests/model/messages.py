"""What the model's writers put into `aggregates`: chunks of frames, and claims of a new fold version."""

from dataclasses import dataclass

from schemas.frame import FrameChunk
from tests.model.fold import Row, Window


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
