"""Free loopback ports.

A free port is only free until somebody else takes it, so ports are drawn together and held open until all
are known; an engine that finds its port taken after all fails by name.

Drawn below the kernel's ephemeral range: from within it, an outgoing connection could take the port of a child
that is being restarted, and a client that tries to reach the dead child could even connect to itself.
"""

import random
import socket
from contextlib import ExitStack

from headrace.errors import FatalError, UsageError

LOOPBACK = "127.0.0.1"
PORT_MIN, PORT_MAX = 1024, 65535
DRAWN_FROM = range(12_000, 32_000)  # Linux hands out 32768 to 60999 for outgoing connections
DRAWS_MAX = 1000


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that nothing listens on now."""
    chance = random.SystemRandom()
    ports: list[int] = []
    with ExitStack() as held:
        for _ in range(DRAWS_MAX):
            if len(ports) == count:
                return ports
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind((LOOPBACK, chance.choice(DRAWN_FROM)))
            except OSError:
                continue  # in use
            ports.append(candidate.getsockname()[1])
    raise FatalError(f"found only {len(ports)} of {count} free ports on {LOOPBACK}", remedy="stop other servers")


def ports_from(base: int, count: int) -> list[int]:
    """`base`, `base + 1`, …; raises UsageError naming every port of them that is in use."""
    if not PORT_MIN <= base <= PORT_MAX - count:
        raise UsageError(
            f"port base {base} leaves no room for {count} ports",
            remedy=f"choose one between {PORT_MIN} and {PORT_MAX - count}",
        )
    wanted = list(range(base, base + count))
    taken = [port for port in wanted if not is_free(port)]
    if taken:
        raise UsageError(
            f"port {', '.join(map(str, taken))} on {LOOPBACK} is in use",
            remedy="stop what listens there or choose another --port-base",
        )
    return wanted


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now (ports in TIME_WAIT count as free)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Whether something accepts TCP connections on this loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True
