"""Runs tests in children that are forked from one process: what they all import is imported once.

It reads an `Ask` a line and answers with a `Said`. It stands in the copy of the tree that is mutated.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import msgspec
import pytest
from tests.mutation.reaching import Watches

NOT_PLANTED = 70
MEMORY = 6 * 2**30
"""Bytes of address space of a child: a loop that fills the memory ends."""


class Ask(msgspec.Struct, frozen=True):
    """`tests`: files or tests, in this order; `seconds` of wall, `cpu` of a processor, for it and what it starts;
    `output`, `scratch`: of this run alone. With `modules` it says there what it has imported in the end, with `reach`
    which test comes to which line of the modules `followed`. `collect`: these are imported, for all that come after.
    `some`: to the end, whatever fails on the way. `planted`: this file's text of `function` is what runs; `NOT_PLANTED`
    is the code where that cannot be.
    """

    tests: tuple[str, ...]
    output: str
    scratch: str
    seconds: float = 600.0
    cpu: int = 600
    modules: str = ""
    reach: str = ""
    followed: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    collect: bool = False
    some: bool = False
    planted: str = ""
    function: str = ""


class Said(msgspec.Struct, frozen=True):
    """`code` of pytest, None where the time was over; `seconds` of wall, `cpu` of it and what it waited for."""

    code: int | None
    seconds: float
    cpu: float


_QUIET = ("-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning")


class _Order:
    def __init__(self, names: tuple[str, ...]) -> None:
        self._rank = {name: number for number, name in enumerate(names)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._rank.get(item.nodeid, len(self._rank)))


def serve() -> None:
    for line in sys.stdin.buffer:
        ask = msgspec.json.decode(line, type=Ask)
        for name in ask.preload:
            with suppress(Exception):
                importlib.import_module(name)
        said = Said(_collect(ask) if ask.collect else 0, 0.0, 0.0)
        if ask.tests and not ask.collect:
            said = _run(ask)
        sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
        sys.stdout.buffer.flush()


def _collect(ask: Ask) -> int:
    """Import the tests and what they import, into this process. What cannot be imported is missed by every later run
    without a word: the status is not 0.
    """
    kept = os.dup(1)
    try:
        with open(ask.output, "wb") as output:
            os.dup2(output.fileno(), 1)
            code = int(pytest.main(["--collect-only", "-q", *_QUIET, *ask.tests]))
            sys.stdout.flush()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    return code


def _run(ask: Ask) -> Said:
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_a_run(ask)
    descriptor = os.pidfd_open(child)
    try:
        over = not select.select([descriptor], [], [], ask.seconds)[0]
    finally:
        os.close(descriptor)
    if over:
        os.killpg(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    end_those_of(ask.scratch)
    code = os.waitstatus_to_exitcode(status)
    return Said(None if over or code < 0 else code, time.monotonic() - begun, used.ru_utime + used.ru_stime)


def _be_a_run(ask: Ask) -> None:
    code: int = pytest.ExitCode.INTERNAL_ERROR
    try:
        os.setpgid(0, 0)
        output = os.open(ask.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CPU, (ask.cpu, ask.cpu))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if ask.planted and not plant(Path(ask.planted), ask.function):
            code = NOT_PLANTED
            return
        until = "--continue-on-collection-errors" if ask.some else "-x"
        options = [until, "-q", *_QUIET, f"--basetemp={ask.scratch}", "-m", "not long and not soak", *ask.tests]
        watches = Watches(Path(ask.reach + ".lines"), [*map(Path, ask.followed)]) if ask.reach else None
        code = pytest.main(options, plugins=[_Order(ask.tests), *([watches] if watches else [])])
        if watches:
            Path(ask.reach).write_bytes(msgspec.json.encode(watches.told()))
        if ask.modules:
            Path(ask.modules).write_text("\n".join(sys.modules))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def plant(module: Path, function: str) -> bool:
    """Whether the functions of that name, as they are imported, do from now on what the text of the module says."""
    wanted = {code.co_qualname: code for code in _codes(compile(module.read_bytes(), str(module), "exec"))}
    found = [
        one
        for one in gc.get_objects()
        if isinstance(one, FunctionType)
        and one.__code__.co_qualname == function
        and one.__code__.co_filename == str(module)
    ]
    if function not in wanted or len(found) != 1:
        return False
    try:
        found[0].__code__ = wanted[function]
    except ValueError:
        # It sees other names of what is around it.
        return False
    return True


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _codes(one)


def end_those_of(scratch: str) -> None:
    """Every process that stands in that folder's files: a test that was cut off could not end what it had started."""
    wanted = scratch.encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            told: Any = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if wanted in told:
                os.kill(int(entry.name), signal.SIGKILL)


if __name__ == "__main__":
    serve()
