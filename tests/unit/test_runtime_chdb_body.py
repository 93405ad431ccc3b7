"""Bodies come out as they went in, however they were cut, compressed and chunked; broken ones are refused."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator

import lz4.frame
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime import chdb_body
from headrace.runtime.chdb_body import BadBodyError, chunked, counted, form_fields, inflated

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
}
MEMBERS = st.lists(st.binary(max_size=2000), min_size=1, max_size=4)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@pytest.mark.parametrize("encoding", COMPRESSORS)
@given(members=MEMBERS, sizes=st.lists(st.integers(1, 500), max_size=6))
def test_any_members_in_any_pieces(encoding: str, members: list[bytes], sizes: list[int]) -> None:
    sent = b"".join(COMPRESSORS[encoding](member) for member in members)
    assert b"".join(inflated(cut(sent, sizes), encoding)) == b"".join(members)


@pytest.mark.parametrize("encoding", COMPRESSORS)
@given(data=st.binary(min_size=1, max_size=500), keep=st.floats(0.05, 0.95))
def test_a_body_that_is_cut_short_is_refused(encoding: str, data: bytes, keep: float) -> None:
    sent = COMPRESSORS[encoding](data)
    shortened = sent[: max(1, int(len(sent) * keep))]
    with pytest.raises(BadBodyError):
        list(inflated(iter([shortened]), encoding))


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_pieces_stay_small_and_bombs_are_stopped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = COMPRESSORS[encoding](bytes(20 << 20))
    pieces = list(inflated(iter([bomb]), encoding))
    assert sum(map(len, pieces)) == 20 << 20
    assert max(map(len, pieces)) <= chdb_body.PIECE_BYTES
    monkeypatch.setattr(chdb_body, "INFLATED_BYTES_MAX", 5 << 20)
    with pytest.raises(BadBodyError, match="inflates to more than") as refusal:
        list(inflated(iter([bomb]), encoding))
    assert refusal.value.status == 413


@given(parts=st.lists(st.binary(min_size=1, max_size=300), max_size=5))
def test_chunks_come_out_whole(parts: list[bytes]) -> None:
    sent = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: x\r\n\r\nnext"
    source = io.BytesIO(sent)
    assert b"".join(chunked(source)) == b"".join(parts)
    assert source.read() == b"next"


@pytest.mark.parametrize(
    "sent", [b"", b"x\r\n", b"-1\r\n", b"5\r\nab", b"2\r\nabX\r\n0\r\n\r\n", b"\r\n", b"5" * 2000]
)
def test_malformed_chunks_are_refused(sent: bytes) -> None:
    with pytest.raises(BadBodyError):
        list(chunked(io.BytesIO(sent)))


def test_lengths_are_kept_and_bounded() -> None:
    assert b"".join(counted(io.BytesIO(b"abcdef"), 4)) == b"abcd"
    with pytest.raises(BadBodyError, match="ended 3 bytes early"):
        list(counted(io.BytesIO(b"ab"), 5))
    with pytest.raises(BadBodyError, match="exceeds"):
        list(counted(io.BytesIO(b""), chdb_body.SENT_BYTES_MAX + 1))
    with pytest.raises(BadBodyError, match="unknown Content-Encoding 'br'"):
        list(inflated(iter([b"x"]), "br"))


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT 1\r\n\r\n--x\r\n'
    b'--b\r\nContent-Disposition: form-data; name="param_a"\r\nContent-Type: text/plain\r\n\r\n\r\n--b--\r\n'
)


def test_fields_of_a_form() -> None:
    fields = form_fields(iter([FORM[:50], FORM[50:]]), 'multipart/form-data; boundary="b"')
    assert fields == {"query": "SELECT 1\r\n\r\n--x", "param_a": ""}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FORM, "multipart/form-data"),
        (FORM[:-8], "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data; boundary=b"),
        (FORM.replace(b"name=", b"what="), "multipart/form-data; boundary=b"),
        (FORM.replace(b'name="query"', b'name="t"; filename="t"'), "multipart/form-data; boundary=b"),
    ],
)
def test_broken_forms_are_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(BadBodyError):
        form_fields(iter([body]), content_type)
