"""Two calls of the system that Python does not have: `openat2`, and `renameat2` that replaces nothing.

A module of its own, since `ctypes` takes as long to load as a fifth of what a short command needs beyond its framework.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Final

AT_FDCWD: Final = -100
NO_MAGICLINKS: Final = 0x02
NO_SYMLINKS: Final = 0x04
BENEATH: Final = 0x08
_RENAME_NOREPLACE: Final = 1
_SYS_OPENAT2: Final = 437
_HOW_BYTES: Final = 24
_TRIES: Final = 16
"""`openat2` gives up where a folder is renamed at this very moment."""


class _How(ctypes.Structure):
    """`struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@cache
def _how(flags: int, mode: int, resolve: int) -> object:
    """A pointer to it, which the kernel only reads."""
    return ctypes.byref(_How(flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, resolve))


def openat2(folder: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """A descriptor, close-on-exec. `resolve`: the flags above. Raises OSError."""
    assert _syscall is not None
    name, how = os.fsencode(path), _how(flags, mode, resolve)
    for _ in range(_TRIES):
        fd: int = _syscall(_SYS_OPENAT2, folder, name, how, _HOW_BYTES)
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


@cache
def has_openat2() -> bool:
    """Whether the kernel has it: before 5.6, and where a container forbids what it does not know, it has not."""
    if _syscall is None:
        return False
    try:
        os.close(openat2(AT_FDCWD, "/", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY, 0, NO_SYMLINKS))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return False
    return True


def rename_noreplace(from_folder: int | None, old: str, to_folder: int | None, new: str) -> int:
    """0, or the number of what is wrong; ENOSYS where there is no such call. Names count from the folders."""
    if _renameat2 is None:
        return errno.ENOSYS
    here, there = (AT_FDCWD if fd is None else fd for fd in (from_folder, to_folder))
    if _renameat2(here, os.fsencode(old), there, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return 0
    return ctypes.get_errno()


def _find(name: str, *arguments: type[ctypes._CDataType]) -> ctypes._FuncPointer | None:
    try:
        function: ctypes._FuncPointer = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = list(arguments)
    return function


_renameat2 = _find("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_words = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_syscall = _find("syscall", *_words) if os.uname().sysname == "Linux" and os.uname().machine != "alpha" else None
