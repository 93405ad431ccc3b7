"""MMDB files of a few networks, made for tests after the format's specification (version 2.0)."""

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

SEPARATOR = bytes(16)
METADATA_MARK = b"\xab\xcd\xefMaxMind.com"
IPV4_PREFIX_BITS = 96
UINT16, UINT32, UINT64 = 5, 6, 9


def mmdb(networks: Mapping[str, Any], *, type: str = "Test-Country", built_s: int = 1_780_000_000) -> bytes:
    """A file in which every address of a network has that network's record. Networks must not overlap."""
    nodes: list[list[tuple[str, int] | None]] = [[None, None]]
    data = b""
    for text, record in networks.items():
        network = ip_network(text)
        bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
        if network.version == 4:
            bits = "0" * IPV4_PREFIX_BITS + bits
        node = 0
        for bit in map(int, bits[:-1]):
            child = nodes[node][bit]
            if child is None:
                nodes.append([None, None])
                child = nodes[node][bit] = ("node", len(nodes) - 1)
            assert child[0] == "node", f"{text} overlaps another network"
            node = child[1]
        nodes[node][int(bits[-1])] = ("data", len(data))
        data += encoded(record)

    def pointer(child: tuple[str, int] | None) -> bytes:
        if child is None:
            return len(nodes).to_bytes(4, "big")
        kind, number = child
        return (number if kind == "node" else len(nodes) + len(SEPARATOR) + number).to_bytes(4, "big")

    tree = b"".join(pointer(child) for node in nodes for child in node)
    about = {
        "binary_format_major_version": _unsigned(UINT16, 2),
        "binary_format_minor_version": _unsigned(UINT16, 0),
        "build_epoch": _unsigned(UINT64, built_s),
        "database_type": type,
        "description": {"en": "made for tests"},
        "ip_version": _unsigned(UINT16, 6),
        "languages": ["en"],
        "node_count": _unsigned(UINT32, len(nodes)),
        "record_size": _unsigned(UINT16, 32),
    }
    return tree + SEPARATOR + data + METADATA_MARK + encoded(about)


def encoded(value: Any) -> bytes:
    """A value of the data section: texts, maps, lists and whole numbers; bytes are such a value already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        raw = value.encode()
        return _control(2, len(raw)) + raw
    if isinstance(value, dict):
        return _control(7, len(value)) + b"".join(encoded(key) + encoded(item) for key, item in value.items())
    if isinstance(value, list):
        return _control(11, len(value)) + b"".join(encoded(item) for item in value)
    return _unsigned(UINT32, value)


def _unsigned(type: int, value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return _control(type, len(raw)) + raw


def _control(type: int, size: int) -> bytes:
    assert size < 29 + 256
    first, rest = (size, b"") if size < 29 else (29, bytes([size - 29]))
    return bytes([type << 5 | first]) + rest if type <= 7 else bytes([first, type - 7]) + rest
