"""An agent that puts a link, a FIFO, a folder or a second name in every place of the state and of the mailbox.

At any call of a turn one name is swapped. Outside nothing changes; the watcher goes on, waits as in any other trouble,
or stops with a word; and when the name is put back, the message is answered.
"""

from __future__ import annotations

import asyncio
import fnmatch
import itertools
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import SOON, Desk
from tests.proved import Harness, proved
from tests.sizes import LONG, sizes

from agent_mailer.disk import SystemCalls
from agent_mailer.errors import MailerError
from agent_mailer.watch.watcher import Watcher

SEED = int(os.environ.get("HOSTILE_SEED", "20261127"))
PATIENCE = 1.5
"""How long a watcher is watched that waits for what does not come."""
LIVES = 5
KINDS = ("link", "dangling", "fifo", "other", "second name")

STATE = (
    *(
        "",
        "turns",
        "memory",
        "requests",
        "templates",
        "log.jsonl",
        "processed.txt",
        "sessions.json",
        "sessions.journal",
    ),
    *("retries.json", "inflight.json", "usage.json", "cursor.txt", "format", ".lock", "guards.json", "turns/*"),
    *("turns/*/outbox", "turns/*/outbox.sealed", "turns/*/turn.json", "turns/*/prompt.md", "turns/*/mail.json"),
    *("turns/*/message.md", "turns/*/stdout", "turns/*/stderr", "turns/*/started", "turns/*/exit", "turns/*/settled"),
    *("turns/*/documents.json", "turns/*/note-global.md", "turns/*/stop.json", "turns/*/progress.json", "turns/*/tmp"),
    *("turns/*/note-thread.md", "turns/*/urgent.json", "turns/*/outbox/finish", "memory/*.md"),
    *("stuck.jsonl", "held.jsonl", "dead_letter.jsonl", "pause.json", "schedules.json", "unsent.txt", "trouble.json"),
    *("login.json", "requests/*", "outbox.sealed"),
)
MAILBOX = (
    *("", "agents", "agents/coder", "agents/coder/inbox", "agents/coder/inbox/new", "agents/coder/inbox/cur"),
    *("agents/coder/inbox/cur/*", "agents/coder/receipts", "agents/coder/outbox/sent", "agents/coder/extensions"),
    *("agents/coder/extensions/agent-mailer/watcher.lock", "agents/coder/extensions/agent-mailer/watcher.pid"),
    *("agents/coder/presence.json", "agents/user/inbox/new", "agents/user/inbox/tmp", "agents/user", "meta"),
    *("meta/config.json", "extensions/agent-mailer/manifest.json", "extensions", "extensions/agent-mailer"),
    *("agents/coder/extensions/agent-mailer", "agents/coder/extensions/agent-mailer/aside"),
)
NAMES = (
    *(f"coder/.agent-mailer/{name}".rstrip("/") for name in STATE),
    *(f"mail/{name}".rstrip("/") for name in MAILBOX),
)


class Outside:
    """What is none of the agent's business. Each name here is one that our own files have."""

    def __init__(self, base: Path) -> None:
        self.folder = base / "outside"
        self.folder.mkdir()
        self.victim = self.folder / "victim"
        for name in ("victim", "turn.json", "exit", "processed.txt", "new"):
            (self.folder / name).write_text(f"{name} of theirs\n")
        (self.folder / "k.md").write_text("---json\n{}\n---\nno mail of the agent's\n")
        self._before = self._seen()

    def _seen(self) -> dict[str, tuple[int, int, int, bytes]]:
        found = {}
        for path in sorted([self.folder, *self.folder.rglob("*")]):
            one = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(one.st_mode) else b""
            found[str(path)] = (one.st_mode, one.st_ino, one.st_mtime_ns, content)
        return found

    def require_untouched(self) -> None:
        assert self._seen() == self._before


class Swap:
    """One name becomes something else, once; and what was there comes back."""

    def __init__(self, base: Path, name: str, kind: str, outside: Outside) -> None:
        self._base, self._name, self._kind, self._outside = base, name, kind, outside
        self._path: Path | None = None
        self._made = 0

    def do(self) -> None:
        path = next(iter(sorted(self._base.glob(self._name))), None)
        path = path or (None if "*" in self._name else self._base / self._name)
        if path is None or not path.parent.is_dir():
            return
        self._path = path
        was_folder = path.is_dir()
        if os.path.lexists(path):
            path.rename(self._kept(path))
        if self._kind == "link":
            path.symlink_to(self._outside.folder if was_folder else self._outside.victim)
        elif self._kind == "dangling":
            path.symlink_to(self._outside.folder / "not-there")
        elif self._kind == "fifo":
            os.mkfifo(path)
        elif self._kind == "other" and not was_folder:
            path.mkdir()
        elif self._kind == "other":
            path.write_text("no folder")
        else:
            os.link(self._outside.victim, path)
        self._made = path.lstat().st_ino

    def undo(self) -> None:
        path = self._path
        if path is None:
            return
        if os.path.lexists(path) and path.lstat().st_ino == self._made:
            if stat.S_ISDIR(path.lstat().st_mode):
                # An empty folder where the watcher wants one is as good as its own, and may have something in it.
                with suppress(OSError):
                    path.rmdir()
            else:
                path.unlink()
        kept = self._kept(path)
        if os.path.lexists(kept):
            put_back(kept, path)

    @staticmethod
    def _kept(path: Path) -> Path:
        return path.with_name(f"{path.name}.moved")


def put_back(kept: Path, path: Path) -> None:
    """What the watcher has made meanwhile stays."""
    if not os.path.lexists(path):
        kept.rename(path)
    elif kept.is_dir() and path.is_dir():
        for child in kept.iterdir():
            put_back(child, path / child.name)


class Hostile(SystemCalls):
    """At one call of the watcher's, just before it, the agent acts."""

    def __init__(self, at: int, swap: Swap) -> None:
        self._left, self._swap = at, swap
        for name in ("open", "write", "fsync", "close", "replace", "rename_noreplace", "unlink", "mkdir", "chmod"):
            setattr(self, name, self._counted(getattr(super(), name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self._swap.do()
            return call(*arguments)

        return counted


def live(desk: Desk, clock: FakeClock, system: SystemCalls | None = None, patience: float = SOON) -> None:
    """One watcher, until it has nothing to do, is tired of waiting, or leaves with a word."""
    place = desk.place(clock)
    place.disk.system = system or place.disk.system
    lock = place.lock()

    async def run() -> None:
        quick = {"trouble_first": 0.01, "trouble_longest": 0.05, "stop_grace": 0.1}
        room = place.room(lock, msgspec.structs.replace(place.policy(), **quick))
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await Watcher(room, once=True).run()

    try:
        place.folder.check()
        lock.acquire()
        place.prepare()
        asyncio.run(run())
    except (MailerError, OSError):
        # It has left with a word, or the disk has refused the start: it is tried again.
        pass
    finally:
        lock.release()
        if (desk.state / "turns").is_dir():
            desk.end_turns()


def calls_of_a_turn(base: Path) -> int:
    counted = itertools.count()

    class Counting(Hostile):
        def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
            def count(*arguments: Any) -> Any:
                next(counted)
                return call(*arguments)

            return count

    desk = Desk(base)
    desk.send()
    live(desk, FakeClock(), Counting(0, None))  # type: ignore[arg-type]
    assert len(desk.inbox()) == 1
    return next(counted)


def cases(most: int, calls: int, chance: random.Random) -> Iterator[tuple[str, str, int]]:
    """Every name with every kind, each at some call; as many of them as there is time for."""
    every = list(itertools.product(NAMES, KINDS))
    chance.shuffle(every)
    rounds = itertools.cycle(every)
    for name, kind in itertools.islice(rounds, most):
        yield name, kind, chance.randrange(1, calls)


def test_no_name_that_a_turn_uses_is_left_out(tmp_path: Path) -> None:
    """But for those under which something is written before it gets its own."""
    desk = Desk(tmp_path)
    used: set[str] = set()

    class Looking(SystemCalls):
        def close(self, fd: int) -> None:
            super().close(fd)
            for root in (desk.state, desk.root):
                used.update(str(path.relative_to(tmp_path)) for path in root.rglob("*"))

    used_before = {str(path.relative_to(tmp_path)) for path in desk.root.rglob("*")}
    desk.send()
    live(desk, FakeClock(), Looking())
    assert len(desk.inbox()) == 1
    named = [re.compile(fnmatch.translate(name.replace("/*", "/[!.]*"))) for name in NAMES]
    written = {name for name in used - used_before if not re.search(r"/(\.|inbox/|outbox/sent/|receipts/)", name)}
    missing = {name for name in written if not any(one.fullmatch(name) for one in named)}
    assert not missing - {"coder/.agent-mailer/config.toml"}


@pytest.mark.parametrize("most", sizes(10, 40, 40 * len(NAMES) * len(KINDS)))
def test_every_name_becomes_something_else(tmp_path: Path, most: int) -> None:
    (tmp_path / "first").mkdir()
    calls = calls_of_a_turn(tmp_path / "first")
    for number, (name, kind, at) in enumerate(cases(most, calls, random.Random(SEED))):
        base = tmp_path / str(number)
        base.mkdir()
        what = f"{name} becomes a {kind} at call {at} (HOSTILE_SEED={SEED})"
        one_life(base, name, kind, at, what)


def one_life(base: Path, name: str, kind: str, at: int, what: str) -> None:
    desk, outside = Desk(base), Outside(base)
    desk.send(body="please")
    swap = Swap(base, name, kind, outside)
    live(desk, FakeClock(), Hostile(at, swap), PATIENCE)
    outside.require_untouched()
    # While it lies there, another watcher starts.
    live(desk, FakeClock(time.time() + 60), patience=PATIENCE)
    outside.require_untouched()
    swap.undo()
    for ahead in range(1, LIVES):
        if desk.inbox():
            break
        # On a machine that is busy the last one has all the time that it needs.
        live(desk, FakeClock(time.time() + 3600 * ahead), patience=PATIENCE if ahead < LIVES - 1 else SOON)
    outside.require_untouched()
    state = desk.place().state
    kept = [*state.dead_letters.all(), *state.unsent.all(), *state.stuck.all()]
    assert desk.inbox() or kept, f"{what}: lost"
    proved(Harness.HOSTILE_NAMES, names_that_became_something_else=1)


@pytest.mark.parametrize(
    "place",
    [
        "$S/turns",
        "$AGENT_MAILER_TURN_DIR",
        pytest.param("$AGENT_MAILER_TURN_DIR/outbox", marks=LONG),
        pytest.param("$AGENT_MAILER_TURN_DIR/exit", marks=LONG),
        pytest.param("$S/memory", marks=LONG),
        pytest.param("$S/requests", marks=LONG),
    ],
)
def test_a_watcher_that_is_to_end_ends(tmp_path: Path, place: str) -> None:
    """One that looks once leaves what cannot be settled now to the next, and waits for nobody."""
    desk, outside = Desk(tmp_path), Outside(tmp_path)
    swap = f'mv "{place}" "{place}.moved" 2>/dev/null; ln -s {outside.folder} "{place}"; echo done'
    desk.shell(f"cat >/dev/null; S={desk.state}; [ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; {swap}; }}")
    desk.send()
    began = time.monotonic()
    desk.once()
    desk.send()
    desk.once(FakeClock(time.time() + 60))
    assert time.monotonic() - began < SOON
    outside.require_untouched()


def test_a_configuration_that_is_a_link_is_the_users_wish(tmp_path: Path) -> None:
    """He keeps it with others of his; whether it counts is decided by its content."""
    desk = Desk(tmp_path)
    (desk.state / "config.toml").rename(tmp_path / "kept.toml")
    (desk.state / "config.toml").symlink_to(tmp_path / "kept.toml")
    desk.send()
    desk.once()
    assert len(desk.inbox()) == 1
