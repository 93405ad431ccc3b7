"""Snapshots of a partition's fold, so that a recovery reads minutes of frames instead of all of them.

They live in a compacted topic, in the partition of the events' partition: chunks keyed (partition, snapshot id,
chunk), then a manifest that names their first offset, their number and the SHA-256 over all of them. A snapshot
without its manifest, or one whose bytes do not match it, does not exist. The two newest are kept; older ones, and
what an interrupted worker left, are deleted by tombstones. A snapshot holds the state at a position that frames
already cover, never a later one: a writer that starts from it must not start past what the sinks have.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from headrace.errors import PoisonError
from headrace.log import get_logger
from streams.log_reader import LogReader
from streams.outbox import OutgoingRecord, Sender

KEPT: Final = 2
CHUNK_BYTES_MAX: Final = 1024 * 1024
CHUNKS_AT_ONCE: Final = 8
"""Chunks handed to the producer together: frames of other partitions share it and must not wait behind a snapshot."""
TAIL_RECORDS: Final = 256
"""First guess of how far back from the end of the log the newest manifest is."""
TAIL_GROWTH: Final = 8

log = get_logger(__name__)


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One complete snapshot. `position`: the state is the fold of [0, position); `resume_offset`: the record of
    `aggregates` at which a reader that holds this state goes on; `first_offset`: of its chunks in the topic."""

    partition: int
    snapshot_id: str
    position: int
    resume_offset: int
    fold_version: str
    topic_id: str
    last_crc: int
    chunks: int
    sha256: str
    first_offset: int


def split(parts: Sequence[bytes]) -> list[bytes]:
    """The snapshot's bytes as chunks that fit a record; at least one."""
    whole = b"".join(parts)
    return [whole[i : i + CHUNK_BYTES_MAX] for i in range(0, len(whole), CHUNK_BYTES_MAX)] or [b""]


def checksum(chunks: Sequence[bytes]) -> str:
    """SHA-256 over all chunks, as hexadecimal digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


async def write_snapshot(
    outbox: Sender, topic: str, chunks: Sequence[bytes], describe: Callable[[str, int, str, int], SnapshotManifest]
) -> SnapshotManifest:
    """Write chunks, then the manifest that `describe(snapshot_id, chunks, sha256, first_offset)` gives.

    Returns once all is acknowledged. Raises FatalError when it is not.
    """
    snapshot_id = uuid.uuid4().hex
    draft = describe(snapshot_id, len(chunks), checksum(chunks), 0)
    first_offset: int | None = None
    for start in range(0, len(chunks), CHUNKS_AT_ONCE):
        some = chunks[start : start + CHUNKS_AT_ONCE]
        records = [
            OutgoingRecord(topic, chunk, partition=draft.partition, key=_chunk_key(draft, start + i))
            for i, chunk in enumerate(some)
        ]
        offsets = await outbox.send(records)
        first_offset = offsets[0] if first_offset is None else first_offset
    assert first_offset is not None
    manifest = describe(snapshot_id, len(chunks), draft.sha256, first_offset)
    value = msgspec.json.encode(manifest)
    await outbox.send([OutgoingRecord(topic, value, partition=manifest.partition, key=_manifest_key(manifest))])
    return manifest


async def delete_snapshot(outbox: Sender, topic: str, manifest: SnapshotManifest) -> None:
    """Tombstones for the manifest first, then for its chunks."""
    keys = [_manifest_key(manifest), *(_chunk_key(manifest, i) for i in range(manifest.chunks))]
    await outbox.send([OutgoingRecord(topic, None, partition=manifest.partition, key=key) for key in keys])


async def delete_keys(outbox: Sender, topic: str, partition: int, keys: Sequence[bytes]) -> None:
    """Tombstones for these keys, those of manifests first."""
    ordered = sorted(keys, key=lambda key: not key.endswith(_MANIFEST_SUFFIX))
    await outbox.send([OutgoingRecord(topic, None, partition=partition, key=key) for key in ordered])


def find_orphans(
    reader: LogReader, topic: str, begin_offset: int, end_offset: int, kept: Sequence[SnapshotManifest]
) -> list[bytes]:
    """Keys with a value in [begin_offset, end_offset) that belong to none of `kept`, snapshots of one partition.

    Nobody else deletes them: chunks of a snapshot that was never finished have no manifest by which to find them.
    """
    ids, found = {manifest.snapshot_id.encode() for manifest in kept}, dict[bytes, None]()
    for record in reader.read(topic, kept[0].partition, begin_offset, end_offset):
        parts = (record.key or b"").split(b"/")
        if record.key is None or len(parts) != KEY_PARTS or parts[1] in ids:
            continue
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = None
    return list(found)


def find_manifests(
    reader: LogReader, topic: str, partition: int, begin_offset: int, end_offset: int
) -> list[SnapshotManifest]:
    """The newest snapshots' manifests, newest first, at most KEPT; reads back from the end only as far as needed."""
    tail = TAIL_RECORDS
    while True:
        start = max(begin_offset, end_offset - tail)
        found: dict[bytes, SnapshotManifest] = {}
        for record in reader.read(topic, partition, start):
            if record.key is None or not record.key.endswith(_MANIFEST_SUFFIX):
                continue
            found.pop(record.key, None)
            if record.value is not None:
                found[record.key] = msgspec.json.decode(record.value, type=SnapshotManifest)
        if len(found) >= KEPT or start == begin_offset:
            return list(reversed(found.values()))[:KEPT]
        tail *= TAIL_GROWTH


def read_snapshot(reader: LogReader, topic: str, manifest: SnapshotManifest) -> list[bytes]:
    """The chunks of a snapshot. Raises PoisonError when one is missing or the checksum does not match."""
    chunks: dict[int, bytes] = {}
    wanted = {_chunk_key(manifest, i): i for i in range(manifest.chunks)}
    for record in reader.read(topic, manifest.partition, manifest.first_offset):
        number = wanted.get(record.key or b"")
        if number is not None and record.value is not None:
            chunks[number] = record.value
        if record.key == _manifest_key(manifest) or len(chunks) == manifest.chunks:
            break
    ordered = [chunks[i] for i in range(manifest.chunks) if i in chunks]
    if len(ordered) < manifest.chunks or checksum(ordered) != manifest.sha256:
        raise PoisonError(
            "damaged_snapshot",
            f"snapshot {manifest.snapshot_id} of partition {manifest.partition} is incomplete or damaged",
        )
    return ordered


KEY_PARTS: Final = 3
_MANIFEST_SUFFIX: Final = b"/manifest"


def _manifest_key(manifest: SnapshotManifest) -> bytes:
    return b"%d/%s%s" % (manifest.partition, manifest.snapshot_id.encode(), _MANIFEST_SUFFIX)


def _chunk_key(manifest: SnapshotManifest, number: int) -> bytes:
    return b"%d/%s/%d" % (manifest.partition, manifest.snapshot_id.encode(), number)
