"""Sketches of a rollup row: distinct users (HyperLogLog) and values (log-bucket histogram), as bytes.

One layout for the fold, both stores and the API. Merging takes the maximum of registers and the sum of bucket
counts, so order and repetition of merges never matter for the first and only repetition for the second. Everything
but the two estimators is integer arithmetic; the same inputs give the same bytes on every machine.

HyperLogLog, p = 12 (1.6 % standard error), of 64-bit hashes: `register = hash & 4095`, `rank` = 1 + leading zeros
of the upper 52 bits (1 to 53). Bytes: empty = no user; `0x01` + sorted 3-byte little-endian entries
(register << 6 | rank) below 1,024 registers; `0x02` + 4,096 ranks from there.

Histogram: bucket 2048 holds zero, 2049 + i the values with (51/49)**(i-1) < value <= (51/49)**i, 2047 - i their
negatives; 51/49 = (1 + 2 %) / (1 - 2 %), so a bucket's middle is within 2 % of each value in it (Masson et al.,
DDSketch, VLDB 2019). Bytes: empty, or `0x01` + sorted entries (u16 bucket, u32 count, little-endian). A count
saturates at 2**32 - 1.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

HLL_P: Final = 12
HLL_REGISTERS: Final = 1 << HLL_P
HLL_RANK_MAX: Final = 64 - HLL_P + 1
HLL_RANK_BITS: Final = 6
HLL_ENTRY_BITS: Final = HLL_P + HLL_RANK_BITS
HLL_DENSE_FROM: Final = 1024
"""Registers from which the dense layout is written; sparse ones take 3 bytes each."""

HIST_ZERO: Final = 2048
HIST_BUCKET_BITS: Final = 12
HIST_COUNT_MAX: Final = 2**32 - 1
_GAMMA: Final = (51, 49)
_SPARSE: Final = 1
_DENSE: Final = 2
_HIST: Final = 1
_HIST_ENTRY: Final = np.dtype([("bucket", "<u2"), ("count", "<u4")])

assert HLL_RANK_MAX < 1 << HLL_RANK_BITS


def hll_entries(hashes: U64) -> U64:
    """`register << 6 | rank` of each 64-bit user hash."""
    rest = hashes >> np.uint64(HLL_P)
    # Below 2**53 the conversion is exact, so the exponent field is floor(log2) of the integer.
    exponent = (rest.astype(np.float64).view(np.uint64) >> np.uint64(52)).astype(np.int64)
    rank = np.where(rest == 0, HLL_RANK_MAX, 64 - HLL_P + 1023 - exponent).astype(np.uint64)
    return ((hashes & np.uint64(HLL_REGISTERS - 1)) << np.uint64(HLL_RANK_BITS)) | rank


def hll_of(hashes: Sequence[int]) -> bytes:
    """The sketch of some 64-bit hashes."""
    return _hll_bytes(_highest(hll_entries(np.array(hashes, dtype=np.uint64))))


def hll_merge(sketches: Sequence[bytes]) -> bytes:
    """The sketch of the union. Raises ValueError on bytes of another layout."""
    entries = decode_hlls(*_joined(sketches))[1]
    ranks = np.zeros(HLL_REGISTERS, np.uint64)
    np.maximum.at(ranks, (entries >> np.uint64(HLL_RANK_BITS)).astype(np.int64), entries & np.uint64(63))
    registers = np.flatnonzero(ranks)
    return _hll_bytes((registers.astype(np.uint64) << np.uint64(HLL_RANK_BITS)) | ranks[registers])


def hll_estimate(sketch: bytes) -> float:
    """Distinct users: the improved raw estimator of Ertl, arXiv:1702.01284, algorithm 6. No bias tables."""
    if not sketch:
        return 0.0
    counts = np.bincount((_hll_decode(sketch) & np.uint64(63)).astype(np.int64), minlength=HLL_RANK_MAX + 1)
    m = float(HLL_REGISTERS)
    empty = m - float(counts[1:].sum())
    z = m * _tau(1.0 - float(counts[HLL_RANK_MAX]) / m)
    for rank in range(HLL_RANK_MAX - 1, 0, -1):
        z = 0.5 * (z + float(counts[rank]))
    z += m * _sigma(empty / m)
    return m * m / (2.0 * math.log(2.0) * z)


def hist_buckets(values: I64) -> I64:
    """The bucket of each value (955 to 3,141)."""
    negative = values < 0
    magnitude = np.where(negative, -(values + 1), values).astype(np.uint64) + negative.astype(np.uint64)
    index = np.searchsorted(_boundaries(), magnitude).astype(np.int64)
    bucket = np.where(negative, HIST_ZERO - 1 - index, HIST_ZERO + 1 + index)
    return np.where(values == 0, HIST_ZERO, bucket)


def hist_of(values: Sequence[int]) -> bytes:
    """The sketch of some values in millionths."""
    buckets, counts = np.unique(hist_buckets(np.array(values, dtype=np.int64)), return_counts=True)
    return _hist_bytes(buckets, counts)


def hist_merge(sketches: Sequence[bytes]) -> bytes:
    """The sketch of all values together. Raises ValueError on bytes of another layout."""
    _, buckets, counts = decode_hists(*_joined(sketches))
    totals = np.zeros(2**16, np.int64)
    np.add.at(totals, buckets, counts)
    filled = np.flatnonzero(totals)
    return _hist_bytes(filled, totals[filled])


def hist_count(sketch: bytes) -> int:
    """How many values it holds."""
    return int(_hist_decode(sketch)["count"].sum(dtype=np.int64)) if sketch else 0


def hist_quantile(sketch: bytes, q: float) -> float | None:
    """The value (millionths) of rank floor(q * (n - 1)), within 2 %; None when it holds no value.

    Raises ValueError unless 0 <= q <= 1.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile is between 0 and 1, not {q}")
    if not sketch:
        return None
    entries = _hist_decode(sketch)
    upto = np.cumsum(entries["count"].astype(np.int64))
    rank = math.floor(q * (int(upto[-1]) - 1))
    return bucket_middle(int(entries["bucket"][np.searchsorted(upto, rank, side="right")]))


def bucket_middle(bucket: int) -> float:
    """The value that stands for a bucket: 2 * gamma**i / (gamma + 1), to its side of zero."""
    if bucket == HIST_ZERO:
        return 0.0
    i = bucket - HIST_ZERO - 1 if bucket > HIST_ZERO else HIST_ZERO - 1 - bucket
    over, under = _GAMMA
    middle: float = (2 * over**i * under) / (under**i * (over + under))  # exact integers, rounded once
    return middle if bucket > HIST_ZERO else -middle


# ------------------------------------------------------------------- many sketches at once, for the fold


def encode_hlls(owner: I64, entries: U64, rows: int) -> tuple[U8, I64]:
    """Bytes and offsets (rows + 1) of the sketches of `rows` rows.

    `entries` (register << 6 | rank) are sorted by (owner, register), one an owner and register; `owner` is
    0 to rows - 1.
    """
    counts = np.bincount(owner, minlength=rows)
    dense = counts >= HLL_DENSE_FROM
    lengths = np.where(dense, 1 + HLL_REGISTERS, np.where(counts > 0, 1 + 3 * counts, 0))
    offsets = _offsets(lengths)
    data = np.zeros(int(offsets[-1]), np.uint8)
    starts = offsets[:-1]
    data[starts[(counts > 0) & ~dense]] = _SPARSE
    data[starts[dense]] = _DENSE
    first = np.cumsum(counts) - counts
    if dense.any():
        in_dense = dense[owner]
        picked = entries[in_dense]
        at = starts[owner[in_dense]] + 1 + (picked >> np.uint64(HLL_RANK_BITS)).astype(np.int64)
        data[at] = (picked & np.uint64(63)).astype(np.uint8)
        owner, entries = owner[~in_dense], entries[~in_dense]
        first = first - (np.cumsum(counts * dense) - counts * dense)
    at = (starts + 1 - 3 * first)[owner]
    at += 3 * np.arange(len(owner))
    _scatter(data, at, entries.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3])
    return data, offsets


def decode_hlls(data: U8, offsets: I64) -> tuple[I64, U64]:
    """(owner, entry) of every register in the sketches `data[offsets[i]:offsets[i+1]]`; the inverse of encode_hlls.

    Raises ValueError on bytes of another layout.
    """
    lengths = np.diff(offsets)
    filled = np.flatnonzero(lengths)
    kind = data[offsets[filled]]
    sparse, dense = filled[kind == _SPARSE], filled[kind == _DENSE]
    wrong = len(sparse) + len(dense) != len(filled)
    if wrong or ((lengths[sparse] - 1) % 3).any() or (lengths[dense] != 1 + HLL_REGISTERS).any():
        raise ValueError("not a HyperLogLog of a known layout")
    owner, at = _spread(sparse, offsets[sparse] + 1, (lengths[sparse] - 1) // 3, 3)
    entries = data[at].astype(np.uint64)
    entries |= data[at + 1].astype(np.uint64) << np.uint64(8)
    entries |= data[at + 2].astype(np.uint64) << np.uint64(16)
    if not len(dense):
        return owner, entries
    ranks = data[(offsets[dense] + 1)[:, None] + np.arange(HLL_REGISTERS)]
    row, register = np.nonzero(ranks)
    more = (register.astype(np.uint64) << np.uint64(HLL_RANK_BITS)) | ranks[row, register].astype(np.uint64)
    return np.concatenate([owner, dense[row]]), np.concatenate([entries, more])


def encode_hists(owner: I64, buckets: I64, counts: I64, rows: int) -> tuple[U8, I64]:
    """Bytes and offsets (rows + 1) of the histograms of `rows` rows; entries sorted by (owner, bucket)."""
    per_row = np.bincount(owner, minlength=rows)
    offsets = _offsets(np.where(per_row > 0, 1 + _HIST_ENTRY.itemsize * per_row, 0))
    data = np.zeros(int(offsets[-1]), np.uint8)
    data[offsets[:-1][per_row > 0]] = _HIST
    first = np.cumsum(per_row) - per_row
    size = _HIST_ENTRY.itemsize
    at = (offsets[:-1] + 1 - size * first)[owner]
    at += size * np.arange(len(owner))
    _scatter(data, at, _hist_entries(buckets, counts).view(np.uint8).reshape(-1, size))
    return data, offsets


def decode_hists(data: U8, offsets: I64) -> tuple[I64, I64, I64]:
    """(owner, bucket, count) of every entry; the inverse of encode_hists. Raises ValueError on another layout."""
    lengths = np.diff(offsets)
    filled = np.flatnonzero(lengths)
    size = _HIST_ENTRY.itemsize
    if (data[offsets[filled]] != _HIST).any() or ((lengths[filled] - 1) % size).any():
        raise ValueError("not a histogram of a known layout")
    owner, at = _spread(filled, offsets[filled] + 1, (lengths[filled] - 1) // size, size)
    raw = np.ascontiguousarray(data[at[:, None] + np.arange(size)]).view(_HIST_ENTRY).reshape(-1)
    return owner, raw["bucket"].astype(np.int64), raw["count"].astype(np.int64)


# ------------------------------------------------------------------------------------------------ private


def _offsets(lengths: I64) -> I64:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _scatter(data: U8, at: I64, entries: U8) -> None:
    """Write each entry's bytes from its place on; `at` is used up."""
    for byte in range(entries.shape[1]):
        data[at] = entries[:, byte]
        at += 1


def _spread(owners: I64, starts: I64, counts: I64, step: int) -> tuple[I64, I64]:
    """For each owner `counts` positions from its start, `step` apart."""
    total = int(counts.sum())
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(owners, counts), np.repeat(starts, counts) + step * within


def _joined(sketches: Sequence[bytes]) -> tuple[U8, I64]:
    return np.frombuffer(b"".join(sketches), np.uint8), _offsets(np.array([len(s) for s in sketches], np.int64))


def _highest(entries: U64) -> U64:
    """The entry of the highest rank of each register, sorted."""
    entries = np.sort(entries)
    register = entries >> np.uint64(HLL_RANK_BITS)
    return entries[np.append(register[1:] != register[:-1], True)] if len(entries) else entries


def _hll_bytes(entries: U64) -> bytes:
    return encode_hlls(np.zeros(len(entries), np.int64), entries, 1)[0].tobytes()


def _hll_decode(sketch: bytes) -> U64:
    return decode_hlls(np.frombuffer(sketch, np.uint8), np.array([0, len(sketch)]))[1]


def _hist_entries(buckets: I64, counts: I64) -> npt.NDArray[np.void]:
    packed = np.empty(len(buckets), _HIST_ENTRY)
    packed["bucket"] = buckets
    packed["count"] = np.minimum(counts, HIST_COUNT_MAX)
    return packed


def _hist_bytes(buckets: I64, counts: I64) -> bytes:
    return bytes([_HIST]) + _hist_entries(buckets, counts).tobytes() if len(buckets) else b""


def _hist_decode(sketch: bytes) -> npt.NDArray[np.void]:
    if sketch[0] != _HIST or (len(sketch) - 1) % _HIST_ENTRY.itemsize:
        raise ValueError("not a histogram of a known layout")
    return np.frombuffer(sketch, _HIST_ENTRY, offset=1)


@cache
def _boundaries() -> U64:
    """floor(gamma**i) for i = 0 … until it covers 2**63; exact, made of integers."""
    over, under = _GAMMA
    out = [1]
    i = 0
    while out[-1] < 2**63:
        i += 1
        out.append(min(over**i // under**i, 2**63))
    table = np.array(out, dtype=np.uint64)
    table.setflags(write=False)
    return table


def _sigma(x: float) -> float:
    """x + sum over k >= 1 of x**(2**k) * 2**(k-1), for the empty registers."""
    if x == 1.0:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        previous = z
        z += x * y
        y += y
        if z == previous:
            return z


def _tau(x: float) -> float:
    """(1 - x - sum over k >= 1 of (1 - x**(2**-k))**2 * 2**-k) / 3, for the registers at the highest rank."""
    if x in {0.0, 1.0}:
        return 0.0
    y, z = 1.0, 1.0 - x
    while True:
        x = math.sqrt(x)
        previous = z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
        if z == previous:
            return z / 3.0
