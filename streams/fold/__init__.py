"""The fold: a partition's events in, its rollup rows out. Pure; see state.py for what it guarantees."""

from streams.fold.batch import EventBatch
from streams.fold.content import FrameContent
from streams.fold.rules import FoldRules
from streams.fold.snapshot import Snapshot
from streams.fold.state import FoldStats, PartitionFold

__all__ = ["EventBatch", "FoldRules", "FoldStats", "FrameContent", "PartitionFold", "Snapshot"]
