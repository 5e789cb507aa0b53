"""A user like any other, also where root runs the tests: what is shut is shut to us, and to what we start."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_SECBIT_NOROOT = 1
"""What is started as root has no powers by that."""
_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_SHUTS = ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def no_powers() -> Iterator[None]:
    """Of this thread, and of the threads and programs that it starts meanwhile (capabilities(7))."""
    if os.geteuid():
        yield
        return
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    _ask("capget", ctypes.byref(header), sets)
    before = sets[0].effective
    _ask("prctl", _PR_SET_SECUREBITS, _SECBIT_NOROOT, 0, 0, 0)
    try:
        sets[0].effective = before & _SHUTS
        _ask("capset", ctypes.byref(header), sets)
        yield
    finally:
        sets[0].effective = before
        _ask("capset", ctypes.byref(header), sets)
        _ask("prctl", _PR_SET_SECUREBITS, 0, 0, 0, 0)


def are_shut() -> bool:
    """Whether this is within `no_powers`, as root."""
    return bool(_libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0) & _SECBIT_NOROOT)


def _ask(name: str, *words: object) -> None:
    if getattr(_libc, name)(*words):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
