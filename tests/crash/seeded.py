"""An event loop whose order a seed decides, on a clock of its own: one schedule of all that could have been.

Of what is ready one thing is run at a time, by lot: a task's step, or the oldest callback (callbacks keep their order,
as asyncio promises it). What a descriptor has to say may be heard later, a timer may fire late, and time passes only
when nothing else is left or the lot says so. Before anything is looked at, every process below ours has come to rest:
so what the loop sees depends on the seed alone.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Set
from contextlib import suppress
from contextvars import ContextVar, copy_context
from selectors import BaseSelector, SelectorKey
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

LATE = 0.03
HURRY = 1.0
"""How often time passes though something is ready, and how many seconds at most."""
DEAF = 0.3
"""How often nobody looks at the descriptors though something else is ready."""
LIFE: ContextVar[int] = ContextVar("LIFE", default=0)
"""What stands for a process that may be killed: everything that it begins has its number. 0 is nobody's."""
_AT_REST = 0.0002
_PATIENCE = 20.0


class Stalled(AssertionError):
    """Nothing is ready, and no timer runs: what is waited for never comes."""


class Others(NamedTuple):
    """Processes and threads that other tests have beside ours: nobody waits for them."""

    pids: frozenset[int]
    threads: frozenset[threading.Thread]


def others_now() -> Others:
    return Others(frozenset(pid for pid, _, _ in below(os.getpid())), frozenset(threading.enumerate()))


class SeededLoop(asyncio.SelectorEventLoop):
    """`trail` is the schedule, a word a step; equal seeds over equal work leave equal trails."""

    # What asyncio's own loops have, and nobody else is told of.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int
    _selector: BaseSelector
    _process_events: Callable[[list[tuple[SelectorKey, int]]], None]

    def __init__(self, seed: int, others: Others) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.moment = 0.0
        self.trail: list[str] = []
        self.before_step: Callable[[asyncio.Handle], None] = lambda _: None
        self._serial = 0
        self._dead: set[int] = set()
        self._tasks: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._family = Family(others)
        self.set_task_factory(self._task)

    def time(self) -> float:
        return self.moment

    def _task(self, loop: asyncio.AbstractEventLoop, story: Any, **more: Any) -> asyncio.Task[Any]:
        self._serial += 1
        made: asyncio.Task[Any] = asyncio.Task(story, loop=loop, **{**more, "name": f"{self._serial:06d}"})
        self._tasks[made] = (more.get("context") or copy_context()).get(LIFE, 0)
        return made

    def begin(self, life: int, story: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it as a process of its own would, with all that it begins."""
        context = copy_context()
        context.run(LIFE.set, life)
        return self.create_task(story, context=context)

    def kill(self, life: int) -> None:
        """From this step on nothing of that life runs: no handler, no clean-up that waits. What it had open is closed,
        as the system does it for a process.
        """
        self._dead.add(life)
        for task in [task for task, its in self._tasks.items() if its == life]:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())

    def cancel_all(self) -> None:
        """Whatever has not come to its end, and was not killed."""
        left = [task for task, life in self._tasks.items() if life not in self._dead and not task.done()]
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def _run_once(self) -> None:
        ready = self._ready
        self._family.come_to_rest()
        if not ready or self.chance.random() >= DEAF:
            self._hear()
        while not ready:
            self._pass_time()
            self._hear()
        if self.chance.random() < LATE and self._scheduled and self._scheduled[0].when() < self.moment + HURRY:
            self._pass_time()
        handle = self._chosen()
        if not handle._cancelled:
            self.before_step(handle)
            self.trail.append(_word(handle))
            if not self._is_dead(handle):
                handle._run()

    def _is_dead(self, handle: asyncio.Handle) -> bool:
        """Or is it about a task of the dead: anyio would for ever cancel what never ends."""
        host = getattr(getattr(_callback_of(handle), "__self__", None), "_host_task", None)
        return life_of(handle) in self._dead or (host is not None and self._tasks.get(host) in self._dead)

    def _hear(self) -> None:
        # By their numbers: in which order the kernel names them depends on what has happened before.
        for key, mask in sorted(self._selector.select(0), key=lambda event: event[0].fd):
            handles = [handle for handle in key.data if handle is not None]
            if any(map(self._is_dead, handles)):
                # Nobody reads it any more: it would be ready for ever, and no time would pass.
                self._selector.unregister(key.fd)
            elif not any(handle in self._ready for handle in handles):
                self._process_events([(key, mask)])

    def _pass_time(self) -> None:
        """To the next timer; all that are due then may run."""
        while self._scheduled and self._scheduled[0]._cancelled:
            self._take_timer()
        if not self._scheduled:
            if self._ready:
                return
            raise Stalled(f"after {len(self.trail)} steps, at {self.moment:.3f} s")
        self.moment = max(self.moment, self._scheduled[0].when())
        while self._scheduled and self._scheduled[0].when() <= self.moment:
            handle = self._take_timer()
            if not handle._cancelled:
                self._ready.append(handle)

    def _take_timer(self) -> asyncio.TimerHandle:
        handle = heapq.heappop(self._scheduled)
        handle._scheduled = False  # type: ignore[attr-defined]
        if handle._cancelled:
            self._timer_cancelled_count -= 1
        return handle

    def _chosen(self) -> asyncio.Handle:
        """The oldest callback, or the step of any task, in the order in which the tasks began."""
        steps: list[tuple[str, int]] = []
        callback = -1
        for place, handle in enumerate(self._ready):
            if (task := _task_of(handle)) is not None:
                steps.append((task.get_name(), place))
            elif callback < 0:
                callback = place
        choices = [callback] * (callback >= 0) + [place for _, place in sorted(steps)]
        place = choices[self.chance.randrange(len(choices))] if len(choices) > 1 else choices[0]
        handle = self._ready[place]
        del self._ready[place]
        return handle


class Family:
    """The processes below ours, without those of others."""

    def __init__(self, others: Others) -> None:
        self._others = others
        self._before: list[tuple[int, str, str]] = []

    def come_to_rest(self) -> None:
        """Return when each of them sleeps or has ended, and each thread beside ours has come to its end."""
        for thread in threading.enumerate():
            if thread.daemon and thread not in self._others.threads:
                thread.join(_PATIENCE)
        end = time.monotonic() + _PATIENCE
        while (found := below(os.getpid(), self._others.pids)) != self._before or any(
            state != "Z" and not (state == "S" and _sleeps(pid)) for pid, state, _ in found
        ):
            # Between two looks nobody ran: of one alone, the first may have been woken by the last.
            assert time.monotonic() < end, f"a process comes to no rest: {found}"
            self._before = found
            if found:
                time.sleep(_AT_REST)


def below(pid: int, without: Set[int] = frozenset()) -> list[tuple[int, str, str]]:
    """Of each process its number, state, and how long and often it has run; of some not, nor of what is below them."""
    found: list[tuple[int, str, str]] = []
    with suppress(OSError):
        for child in _said(f"/proc/{pid}/task/{pid}/children").split():
            if int(child) in without:
                continue
            with suppress(OSError):
                state = _said(f"/proc/{child}/stat").rpartition(")")[2].split()[0]
                found.append((int(child), state, _said(f"/proc/{child}/schedstat")))
                found += below(int(child))
    return found


def _sleeps(pid: int) -> bool:
    """Whether it has left its processor: what is about to sleep, and was kept from it, has the state of a sleeper."""
    try:
        # The kernel looks at its queues before it answers.
        return _said(f"/proc/{pid}/syscall") != "running\n"
    except OSError:
        return True


def left_running(others: Others) -> list[int]:
    """Processes that live though nothing is left to do: a holder stays as long as what is below it."""
    return [pid for pid, state, _ in below(os.getpid(), others.pids) if state != "Z"]


def _said(path: str) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def _close(story: object) -> None:
    """What is within each `finally` runs as far as it does not wait: there descriptors are closed."""
    assert inspect.iscoroutine(story)
    while inspect.getcoroutinestate(story) != inspect.CORO_CLOSED:
        # One that waits there refuses, and is at the next one further out.
        with suppress(BaseException):
            story.close()


def _callback_of(handle: asyncio.Handle) -> Any:
    return handle._callback  # type: ignore[attr-defined]


def _task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    owner = getattr(_callback_of(handle), "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def life_of(handle: asyncio.Handle) -> int:
    return int(handle._context.get(LIFE, 0))  # type: ignore[attr-defined]


def _word(handle: asyncio.Handle) -> str:
    if (task := _task_of(handle)) is not None:
        return task.get_name()
    callback = _callback_of(handle)
    return str(getattr(callback, "__qualname__", type(callback).__name__))
