"""Replaces itself by a child's program, after arming what must be armed in the child itself.

    python -I -S launch.py PARENT_PID DEATH_SIGNAL UID:GID|- SEARCH PROGRAM ARGUMENT…

- The kernel sends DEATH_SIGNAL when the parent dies, so a supervisor killed with -9 leaves no orphans.
- UID:GID drops root's rights (Postgres refuses to run as root). SEARCH=1 keeps, of all of root's
  capabilities, CAP_DAC_READ_SEARCH, so that the program can be reached inside folders closed to others
  (a checkout under /root) without loosening the modes of anybody's folders.

Runs as a script, alone: code between fork and exec is unsafe in a process with threads, code here is not.
Linux only; elsewhere it just executes the program.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT = 1, 8, 28, 47  # linux/prctl.h
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_READ_SEARCH = 2  # linux/capability.h
SECBIT_NO_SETUID_FIXUP = 4  # linux/securebits.h
CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    """Arm and execute; returns only by raising."""
    parent, death_signal, owner, search, *program = arguments
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if owner != "-":
            become(libc, *map(int, owner.split(":")), search=search == "1")
        # After the change of user: changing credentials disarms the signal.
        check(libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0), "PR_SET_PDEATHSIG")
        if os.getppid() != int(parent):
            sys.exit(f"the supervisor {parent} was gone before its child started")
    os.execv(program[0], program)  # noqa: S606 - becoming the program is the purpose


def become(libc: ctypes.CDLL, uid: int, gid: int, *, search: bool) -> None:
    """Turn root into `uid`, with no capability, or with the single one that opens folders."""
    if search:
        check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
        # Or access(2), by which initdb looks for postgres, would not count the capability of a user who is not root.
        check(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "PR_SET_SECUREBITS")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if search:
        bit = 1 << CAP_DAC_READ_SEARCH
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; high words
        check(libc.capset(header, sets), "capset")
        check(
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0),
            "PR_CAP_AMBIENT_RAISE",
        )


def check(result: int, what: str) -> None:
    """Stop with the system's own word when a call failed."""
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
