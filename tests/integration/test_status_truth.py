"""`status` is healthy only if mail that came now would be worked on."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import pytest
from tests.desk import Desk, until
from tests.typed import type_in

from agent_mailer.assemble import Workplace
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic, Listing
from agent_mailer.runtimes.port import Finding, Probe
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.state.requests import Request, Verb
from agent_mailer.state.workdirs import remember
from agent_mailer.views import pulse
from agent_mailer.views.local import everywhere, look
from agent_mailer.watch.watcher import Watcher


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def seen(desk: Desk, **env: str) -> dict[str, Any]:
    done = type_in(desk.workdir, "status", "--json", env=env)
    found: dict[str, Any] = done.json
    assert done.status == (0 if found["healthy"] else 1), done
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in found["problems"]]


def tool(desk: Desk, text: str = "cat >/dev/null; echo done", name: str = "my-agent") -> Path:
    folder = desk.base / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@contextmanager
def watched(desk: Desk, **env: str) -> Iterator[None]:
    before = len(desk.log(EventName.WATCH_STARTED))
    with desk.watching(env={**os.environ, **env}):
        until(lambda: len(desk.log(EventName.WATCH_STARTED)) > before, "the watcher")
        yield


def test_it_is_healthy_only_while_the_program_is_there(desk: Desk) -> None:
    program = tool(desk)
    desk.configure(command=["my-agent"])
    # Found by the PATH of the watcher, which is not that of whoever looks.
    with watched(desk, PATH=f"{program.parent}:{os.environ['PATH']}"):
        assert codes(seen(desk)) == []
        program.chmod(0o644)
        found = seen(desk)
        assert codes(found) == ["program"]
        assert found["problems"][0]["fix"] == f"chmod +x {program}"
        screen = type_in(desk.workdir, "status")
        assert (screen.status, "not executable" in screen.out, f"fix: chmod +x {program}" in screen.out) == (1, 1, 1)
        program.unlink()
        assert codes(seen(desk)) == ["program"]
        program.write_text("#!/usr/bin/env no-such-node\n")
        program.chmod(0o755)
        found = seen(desk)
        assert (codes(found), "needs no-such-node" in found["problems"][0]["text"]) == (["program"], True)
        tool(desk)
        assert codes(seen(desk)) == []
    assert codes(seen(desk)) == ["no_watcher", "program"]
    assert codes(seen(desk, PATH=f"{program.parent}:{os.environ['PATH']}")) == ["no_watcher"]


@contextmanager
def in_this_process(desk: Desk) -> Iterator[Watcher]:
    """A watcher of which the test has the loop."""
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    place.prepare()
    ready, stop = Event(), Event()
    held: list[Watcher] = []

    def run() -> None:
        async def watch() -> None:
            held.append(Watcher(place.room(lock)))
            task = asyncio.create_task(held[0].run())
            rested = 0
            # What its own start has woken it for comes first.
            while rested < 5:
                await asyncio.sleep(0.005)
                rested = rested + 1 if held[0]._ear.loop_rests and not held[0]._wake.is_set() else 0
            ready.set()
            while not stop.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            held[0].stop(0.0)
            await task

        asyncio.run(watch())

    thread = Thread(target=run)
    thread.start()
    try:
        assert ready.wait(30)
        yield held[0]
    finally:
        stop.set()
        thread.join()
        lock.release()


def asked(desk: Desk) -> list[Path]:
    """What its watcher has not answered yet."""
    return list((desk.state / "requests").glob("*.json"))


def test_a_loop_that_stands_still_is_a_problem(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_this_process(desk) as watcher:
        assert look(desk.place()).healthy
        monkeypatch.setattr(pulse, "SECONDS", 0.2)
        # As where a look never comes back: the loop is alive, its way is not.
        watcher._ear.loop_rests = False
        began = time.monotonic()
        found = look(desk.place())
        assert time.monotonic() - began < 5.0
        assert [problem.code for problem in found.problems] == ["watcher_silent"]
        assert not asked(desk)
        watcher._ear.loop_rests = True
        assert look(desk.place()).healthy


def test_a_ping_costs_the_loop_no_look(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_this_process(desk) as watcher:
        looks: list[int] = []
        pending = watcher._room.mailbox.pending

        async def counted(limit: int, beside: Collection[str] = (), *, woken: bool = False) -> Listing:
            looks.append(limit)
            return await pending(limit, beside, woken=woken)

        monkeypatch.setattr(watcher._room.mailbox, "pending", counted)
        for _ in range(20):
            assert look(desk.place()).healthy
        assert looks == []
        assert not (desk.state / "log.jsonl").exists()
        assert list((desk.state / "requests").iterdir()) == []
        desk.place().state.requests.submit(Request(Verb.PAUSE))
        until(lambda: looks, "what is no ping wakes it")


class TellsLogin:
    """The desk's command as a program that can be asked for its login."""

    def __init__(self, inner: Any, *, signed_in: bool) -> None:
        self._inner, self.signed_in = inner, signed_in

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def probes(self, workdir: Path) -> tuple[Probe, ...]:
        return (Probe("login", (sys.executable, "-c", ""), dict(os.environ), workdir),)

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        del probe, status, output
        return Finding(self.signed_in, "no login here", "my-agent login")


def test_the_login_is_as_it_was_last_learned(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Workplace.runtime
    monkeypatch.setattr(Workplace, "runtime", lambda place: TellsLogin(made(place), signed_in=False))
    with in_this_process(desk):
        until(lambda: (desk.state / "login.json").exists(), "it is learned at the start")
        [problem] = look(desk.place()).problems
        assert (problem.code, problem.fix) == (
            "signed_out",
            f"my-agent login, then agent-mailer resume -C {desk.workdir}",
        )
        assert "no login here" in type_in(desk.workdir, "status").out
        # Mail is tried all the same: a turn knows better.
        desk.send()
        until(lambda: desk.log(EventName.TURN_SETTLED), "the turn")
        until(lambda: not (desk.state / "login.json").exists(), "learned by the turn")
        assert look(desk.place()).healthy
    desk.place().state.login.learn(SignedOut(time.time(), "none"))
    monkeypatch.setattr(Workplace, "runtime", lambda place: TellsLogin(made(place), signed_in=True))
    with in_this_process(desk):
        until(lambda: not (desk.state / "login.json").exists(), "the next start learns that there is one")
    desk.place().state.login.learn(SignedOut(time.time(), "none"))
    assert "signed_out" in codes(seen(desk))
    desk.resume()
    assert "signed_out" not in codes(seen(desk))


def test_a_real_program_is_asked_once_by_the_watcher_and_never_by_status(desk: Desk) -> None:
    asked = desk.base / "asked"
    tool(desk, f'echo "$@" >> {asked}; test "$ANTHROPIC_API_KEY" && exit 0; exit 1', "claude")
    desk.configure(runtime="claude", claude_command=str(desk.base / "bin/claude"), env={"pass": ["ANTHROPIC_API_KEY"]})
    with watched(desk, ANTHROPIC_API_KEY=""):
        until(lambda: codes(seen(desk)) == ["signed_out"], "it is learned")
        assert "claude auth login" in seen(desk)["problems"][0]["fix"]
        assert asked.read_text() == "auth status\n"
    with watched(desk, ANTHROPIC_API_KEY="sk-ant-x"):
        until(lambda: codes(seen(desk)) == [], "a key of the environment counts")
        assert asked.read_text() == "auth status\n" * 2


@pytest.mark.parametrize(
    ("pause", "wanted"),
    [
        (Pause(PauseReason.UNAVAILABLE, -60.0, 60.0), []),
        (Pause(PauseReason.UNAVAILABLE, -600.0, 60.0, "503"), ["outage"]),
        (Pause(PauseReason.LIMITED, -600.0, 3600.0), []),
        (Pause(PauseReason.LIMITED, -600.0, 60.0, guessed=True), ["outage"]),
        (Pause(PauseReason.LIMITED, -60.0, 60.0, guessed=True), []),
        (Pause(PauseReason.SIGNED_OUT, -1.0, 60.0), ["signed_out"]),
        (Pause(PauseReason.BY_HAND, -90000.0), []),
    ],
)
def test_what_has_a_known_end_waits_and_an_outage_is_a_problem_after_a_while(
    desk: Desk, pause: Pause, wanted: list[str]
) -> None:
    now = time.time()
    moment = None if pause.until is None else now + pause.until
    desk.place().state.pause.write(msgspec.structs.replace(pause, since=now + pause.since, until=moment))
    found = seen(desk)
    assert codes(found) == ["no_watcher", *wanted]
    desk.configure(notify={"trouble_after": 86400})
    assert "outage" not in codes(seen(desk))


def test_a_limit_is_said_to_be_waited_for(desk: Desk) -> None:
    now = time.time()
    desk.place().state.pause.write(Pause(PauseReason.LIMITED, now, now + 3600))
    with watched(desk):
        done = type_in(desk.workdir, "status")
        assert (done.status, "health   waiting: limited" in done.out) == (0, True), done


def test_what_waits_is_what_the_engine_would_run(desk: Desk) -> None:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 3")
    dead, settled = desk.send(thread="dead"), ""
    desk.once()
    desk.shell("cat >/dev/null; echo done")
    settled = desk.send(thread="settled")
    desk.once()
    new, cur = (desk.root / "agents/coder/inbox" / name for name in ("new", "cur"))
    for name in (dead, settled):
        (cur / f"{name}.md").rename(new / f"{name}.md")
    desk.send(thread="notice", automatic=Automatic.NOTICE)
    fresh = desk.send(thread="fresh")
    found = seen(desk)["mailbox"]
    assert found["waiting"] == 2
    assert {queued["message_id"] for queued in found["queue"]} == {dead, fresh}
    plan = type_in(desk.workdir, "watch", "--dry-run").out
    assert "2 ready, 0 waiting behind them, 0 running" in plan


def test_all_are_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SECONDS", 2.0)
    desks = [Desk(tmp_path / name) for name in ("one", "two", "three")]
    with in_this_process(desks[0]) as first, in_this_process(desks[1]) as second, in_this_process(desks[2]):
        for desk in desks:
            remember(desk.workdir)
        assert everywhere().healthy
        first._ear.loop_rests = second._ear.loop_rests = False
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(everywhere)
            # One after another, the first would have been given up before the second is asked.
            until(lambda: all(asked(desk) for desk in desks[:2]), "both are asked")
            found = looking.result()
        assert sorted(len(one.problems) for one in found.workdirs) == [0, 1, 1]


def test_a_screen_waits_for_nobody(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SECONDS", 0.3)
    pulses = pulse.Pulses(every=0.05)
    with in_this_process(desk) as watcher:
        watcher._ear.loop_rests = False
        # Had it waited, it would know.
        assert look(desk.place(), listening=pulses.listen).healthy
        until(lambda: not look(desk.place(), listening=pulses.listen).healthy, "it is told when it is known")
        watcher._ear.loop_rests = True
        until(lambda: look(desk.place(), listening=pulses.listen).healthy, "it answers again")
