"""Run by itself, by a bare Python: put this process under Landlock, take its privileges, become the program.

python -I -S enter_landlock.py [n:WHAT…] [r:PATH…] [w:PATH…] [l:PATH…] -- PROGRAM [WORD…]. n:inet and n:unix allow such
sockets; r: read, w: read and write, l: see names only. `s:abstract` in place of rules holds back sockets of others
without a path and the kernel's keys, `s:kernel` keeps what the kernel obeys from root in a mount namespace of its own.
It imports no package: what it costs is paid before every turn.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys

OLDEST_ABI = 3
"""Linux 6.2: before that a file outside could be cut to nothing."""
SCOPES_ABI = 6
"""Linux 6.12: signals and abstract sockets are held back, too."""
ABSTRACT_ONLY = "s:abstract"
KERNEL_ONLY = "s:kernel"
OBEYED = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "mtrr")
"""In /proc: root may write there without any privilege, and so set what the kernel runs outside."""

_CREATE, _ADD, _RESTRICT, _OPENAT2 = 444, 445, 446, 437
MACHINES = {"x86_64": (0xC000003E, 41, 126, 248), "aarch64": (0xC00000B7, 198, 91, 217)}
"""The audit name of the machine, and its numbers of socket, capset and add_key, which two others of keys follow."""
_IO_URING_SETUP = 425
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_MS_READ_ONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
_KEPT = 2 | 4 | 8
"""What a mount of /proc has of its own, and a mount of a part of it must keep: no devices, no programs, no setuid."""

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_FIRST_ABI = (1 << 13) - 1
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = (_ALL_OF_FIRST_ABI & ~(_MAKE_CHAR | _MAKE_BLOCK)) | _REFER | _TRUNCATE
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_ABSTRACT, _SIGNALS = 1, 2
_DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, number: int, *words: object) -> int:
    result: int = _libc.syscall(number, *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _control(what: str, option: int, value: int, data: bytes | None) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_char_p(data), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def abi() -> int:
    """Of this kernel; 0 where it has no Landlock, or was started without."""
    found: int = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    return max(0, found)


def _open(path: str) -> int:
    """The very path, none of it a link: what an agent has put in its place leads nowhere."""
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, 0, 0x04)
    return _call(path, _OPENAT2, -100, ctypes.c_char_p(os.fsencode(path)), ctypes.c_char_p(how), ctypes.c_size_t(24))


def _allow(ruleset: int, fd: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= _OF_A_FILE
    if rights:
        rule = struct.pack("=Qi", rights, fd)
        _call("landlock_add_rule", _ADD, ruleset, 1, ctypes.c_char_p(rule), 0)


def _scope() -> None:
    """Mounts, and so a sandbox within, can be made all the same: they are forbidden to who is held to files."""
    attributes = ctypes.c_char_p(struct.pack("QQQ", 0, 0, _ABSTRACT))
    _enter(_call("landlock_create_ruleset", _CREATE, attributes, ctypes.c_size_t(24), 0))


def _enter(ruleset: int) -> None:
    _control("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1, None)
    _call("landlock_restrict_self", _RESTRICT, ruleset, 0)
    os.close(ruleset)


def _restrict(rules: list[str]) -> None:
    version = abi()
    if version < OLDEST_ABI:
        raise OSError(errno.EOPNOTSUPP, f"this kernel's Landlock has ABI {version}, and {OLDEST_ABI} is needed")
    handled = _ALL_OF_FIRST_ABI | _REFER | _TRUNCATE | (_IOCTL if version >= 5 else 0)
    scoped = _ABSTRACT | _SIGNALS if version >= SCOPES_ABI else 0
    size = 24 if version >= SCOPES_ABI else 16 if version >= 4 else 8
    attributes = ctypes.c_char_p(struct.pack("QQQ", handled, 0, scoped))
    ruleset = _call("landlock_create_ruleset", _CREATE, attributes, ctypes.c_size_t(size), 0)
    rights = {"r": _READ, "w": _WRITE, "l": _READ_DIR}
    for rule in rules:
        kind, _, path = rule.partition(":")
        if kind in rights:
            try:
                fd = _open(path)
            except OSError as error:
                # It was there a moment ago: what has vanished, or has become a link, is not allowed.
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES):
                    continue
                raise
            _allow(ruleset, fd, rights[kind] & handled)
            os.close(fd)
    for name in _DEVICES:
        fd = _open("/dev/" + name)
        _allow(ruleset, fd, (_READ | _WRITE | _IOCTL) & handled)
        os.close(fd)
    for fd in (1, 2):
        # So that /dev/stdout can be opened, which leads to the file that the turn's words go to.
        if stat.S_ISREG(os.fstat(fd).st_mode):
            _allow(ruleset, fd, _READ_FILE | _WRITE_FILE)
    _enter(ruleset)


def _filter(machine: tuple[int, int, int, int], families: list[int] | None) -> list[tuple[int, int, int, int]]:
    """Landlock holds back no socket with a path, and io_uring passes by every filter of calls. None: all sockets.

    The kernel keeps keys of the person (tickets, passwords) that every process of the session inherits.
    """
    audit, socket, _, add_key = machine
    ok, refuse, absent = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    head = [
        (0x20, 0, 0, 4),
        (0x15, 1, 0, audit),
        (0x06, 0, 0, refuse),
        (0x20, 0, 0, 0),
        (0x35, 0, 1, 0x40000000),
        (0x06, 0, 0, refuse),
        (0x15, 0, 1, _IO_URING_SETUP),
        (0x06, 0, 0, absent),
        *(line for call in range(add_key, add_key + 3) for line in ((0x15, 0, 1, call), (0x06, 0, 0, absent))),
    ]
    if families is None:
        return [*head, (0x06, 0, 0, ok)]
    tests = [(0x15, len(families) - at, 0, family) for at, family in enumerate(families)]
    return [
        *head,
        (0x15, 0, len(tests) + 2, socket),
        (0x20, 0, 0, 16),
        *tests,
        (0x06, 0, 0, refuse),
        (0x06, 0, 0, ok),
    ]


def _hold_calls(machine: tuple[int, int, int, int], families: list[int] | None) -> None:
    code = b"".join(struct.pack("=HBBI", *line) for line in _filter(machine, families))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p).value)
    _control("seccomp", _PR_SET_SECCOMP, 2, program)


def _drop_privileges(machine: tuple[int, int, int, int]) -> None:
    header = ctypes.c_char_p(struct.pack("Ii", 0x20080522, 0))
    _call("capset", machine[2], header, ctypes.c_char_p(bytes(24)))


def _keep_from_root(machine: tuple[int, int, int, int]) -> None:
    """Nobody without privileges takes such a mount away, in a namespace of his own neither."""
    for path in ("/proc/" + name for name in OBEYED):
        if not os.path.lexists(path):
            continue
        for flags in (_MS_BIND, _MS_BIND | _MS_REMOUNT | _MS_READ_ONLY | _KEPT):
            if _libc.mount(path.encode(), path.encode(), None, ctypes.c_ulong(flags), None):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), path)
    _control("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1, None)
    _drop_privileges(machine)


def main(words: list[str]) -> None:
    end = words.index("--")
    rules, command = words[:end], words[end + 1 :]
    machine = MACHINES.get(os.uname().machine)
    parts = {ABSTRACT_ONLY, KERNEL_ONLY}.intersection(rules)
    if machine is not None and KERNEL_ONLY in parts:
        _keep_from_root(machine)
    if ABSTRACT_ONLY in parts:
        _scope()
        if machine is not None:
            _hold_calls(machine, None)
    if parts:
        os.execv(command[0], command)  # noqa: S606, TID251 - as below
    if machine is None:
        raise OSError(errno.EOPNOTSUPP, "made for x86_64 and aarch64, not for " + os.uname().machine)
    _restrict(rules)
    _drop_privileges(machine)
    _hold_calls(machine, [1] * ("n:unix" in rules) + [2, 10, 16] * ("n:inet" in rules))
    os.execv(command[0], command)  # noqa: S606, TID251 - nothing starts: this process becomes the agent's


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as fault:
        sys.stderr.write(f"landlock: {fault.filename or 'start'}: {fault.strerror}\n")
        sys.exit(125)
