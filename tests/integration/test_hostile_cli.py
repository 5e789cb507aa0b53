"""Agent programs that behave as badly as they can, in claude's place: the turn gets its outcome and nobody is left."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import SOON, Desk, outcomes, until
from tests.sizes import LONG

from agent_mailer.events import EventName
from agent_mailer.process.tree import members

PRELUDE = """\
import json, os, signal, sys, time

def emit(**fields):
    raw((json.dumps(fields) + "\\n").encode())

def raw(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()

def init(*more):
    servers = [{"name": "agent_mailer", "status": "connected"}]
    tools = ["Task", "Bash", "mcp__agent_mailer__reply", *more]
    session = "11111111-1111-4111-8111-111111111111"
    emit(type="system", subtype="init", session_id=session, tools=tools, mcp_servers=servers)

def text(words):
    emit(type="assistant", message={"content": [{"type": "text", "text": words}]}, parent_tool_use_id=None)

def result(words="the answer"):
    emit(type="result", subtype="success", is_error=False, result=words)

"""


class HostileDesk(Desk):
    def program(self, source: str, login: str = "emit(loggedIn=True)", **settings: object) -> None:
        """The agent is this Python program; `login` is what it does when asked for its login."""
        script, program = self.base / "hostile.py", self.base / "claude"
        # The watcher asks for the login beside the first turn.
        asked = f"if sys.argv[1:] == ['auth', 'status']:\n    {login}\n    sys.exit()\n"
        script.write_text(PRELUDE + asked + source)
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(script))} "$@"\n')
        program.chmod(0o755)
        self.configure(runtime="claude", claude_command=str(program), permission_mode="plan", **settings)

    def left(self) -> list[int]:
        """Processes of any turn that still run."""
        return [process.pid for turn in (self.state / "turns").iterdir() for process in members(turn.name, None)]


@pytest.fixture
def desk(tmp_path: Path) -> HostileDesk:
    return HostileDesk(tmp_path)


def test_it_prints_nothing(desk: HostileDesk) -> None:
    desk.program("time.sleep(300)", first_output_timeout=1)
    desk.send()
    began = time.monotonic()
    assert outcomes(desk.once()) == ["unavailable"]
    assert time.monotonic() - began < SOON
    assert desk.left() == []


def test_it_leaves_without_a_word(desk: HostileDesk) -> None:
    desk.program("")
    desk.send()
    assert outcomes(desk.once()) == ["failed"]
    assert desk.log(EventName.TURN_ENDED)[0]["detail"] == "claude ended without a result"


@LONG
def test_it_prints_its_result_and_never_exits(desk: HostileDesk) -> None:
    desk.program("init(); result(); time.sleep(300)")
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert [m.body for m in desk.inbox()] == ["the answer\n"]
    assert desk.left() == []


@LONG
def test_it_exits_late_and_with_an_error_after_its_result(desk: HostileDesk) -> None:
    desk.program("init(); result(); time.sleep(2); sys.exit(1)")
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert not desk.log(EventName.TURN_STOPPING)


def test_it_exits_well_after_an_error(desk: HostileDesk) -> None:
    desk.program('init(); emit(type="result", subtype="success", is_error=True, result="API Error: Connection lost")')
    desk.send()
    assert outcomes(desk.once()) == ["unavailable"]
    assert desk.inbox() == []


@LONG
def test_it_ignores_every_request_to_leave(desk: HostileDesk) -> None:
    ignoring = "for s in (1, 2, 3, 13, 15): signal.signal(s, signal.SIG_IGN)\n"
    desk.program(ignoring + "os.fork(); init(); time.sleep(300)", silence_timeout=1)
    desk.send()
    assert outcomes(desk.once()) == ["unavailable"]
    [stopping], [ended] = desk.log(EventName.TURN_STOPPING), desk.log(EventName.TURN_ENDED)
    assert _seconds(ended) - _seconds(stopping) < SOON
    assert desk.left() == []


def _seconds(row: dict[str, object]) -> float:
    from agent_mailer.clock import from_iso

    return from_iso(str(row["ts"]))


def test_two_hundred_megabytes_of_output(desk: HostileDesk) -> None:
    desk.program(
        "init()\n"
        'line = json.dumps({"type": "stream_event", "session_id": "s", "event": "y" * 20000}).encode() + b"\\n"\n'
        "for _ in range(10000): raw(line)\n"
        "result()"
    )
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert [m.body for m in desk.inbox()] == ["the answer\n"]
    [stdout] = (desk.state / "turns").glob("*/stdout")
    assert stdout.stat().st_size > 200_000_000
    stdout.unlink()


def test_a_line_of_thirty_megabytes_is_skipped_and_the_rest_counts(desk: HostileDesk) -> None:
    desk.program('init(); raw(b"{" + b"x" * 30_000_000 + b"\\n"); text("after"); result()')
    desk.send()
    assert outcomes(desk.once()) == ["done"]


def test_a_result_inside_a_line_that_is_too_long_is_no_result(desk: HostileDesk) -> None:
    desk.program('init(); result("x" * 5_000_000)')
    desk.send()
    assert outcomes(desk.once()) == ["failed"]


NOISE = {
    "no text": r'b"\xff\xfe\xfa\n"',
    "a result that is no text": r'b"{\"type\":\"result\",\"result\":\"\xff\"}\n"',
    "zeros": r'b"\0" * 5000 + b"\n"',
    "deep": r'b"[" * 100000 + b"\n"',
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
def test_lines_that_cannot_be_read_are_passed_over(noise: str, desk: HostileDesk) -> None:
    desk.program(f"init(); raw({noise}); result()")
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert [m.body for m in desk.inbox()] == ["the answer\n"]


def test_a_line_spliced_into_another_is_neither(desk: HostileDesk) -> None:
    desk.program(
        """init(); raw(b'{"type":"assistant","mess'); result("not to be believed"); raw(b'age":{}}\\n'); text("here")"""
    )
    desk.send()
    assert outcomes(desk.once()) == ["failed"]
    assert desk.inbox() == []


def test_a_result_without_its_line_end_counts(desk: HostileDesk) -> None:
    desk.program('init(); raw(json.dumps({"type": "result", "is_error": False, "result": "the answer"}).encode())')
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert [m.body for m in desk.inbox()] == ["the answer\n"]


def test_a_result_that_is_cut_is_none(desk: HostileDesk) -> None:
    desk.program('init(); raw(json.dumps({"type": "result", "is_error": False, "result": "the answer"}).encode()[:-5])')
    desk.send()
    assert outcomes(desk.once()) == ["failed"]


@LONG
@pytest.mark.parametrize("end", ["result()", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["done", "killed"])
def test_tool_processes_in_sessions_of_their_own_do_not_outlive_the_turn(end: str, desk: HostileDesk) -> None:
    pids = desk.base / "pids"
    desk.program(
        "init()\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork(): os._exit(0)\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"        open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "        time.sleep(300)\n"
        f"while not os.path.exists({str(pids)!r}) or open({str(pids)!r}).read().count('\\n') < 3: time.sleep(0.01)\n"
        + end
    )
    desk.send()
    assert outcomes(desk.once()) == ["done" if end == "result()" else "crashed"]
    assert not any(procfs.runs(int(pid)) for pid in pids.read_text().split())


def test_it_changes_its_mind_after_the_result(desk: HostileDesk) -> None:
    desk.program('init(); result("first"); text("no, wait"); result("second")')
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert [m.body for m in desk.inbox()] == ["second\n"]


@LONG
def test_a_watcher_that_dies_leaves_it_alone_and_the_next_one_ends_it(desk: HostileDesk) -> None:
    pid_file = desk.base / "pid"
    desk.program(
        f"signal.signal(15, signal.SIG_IGN); init(); open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(300)",
        silence_timeout=2,
    )
    desk.send()
    with desk.watching() as watcher:
        until(lambda: pid_file.exists() and pid_file.read_text(), "the agent")
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
        pid = int(pid_file.read_text())
        os.kill(pid, 0)
        assert outcomes(desk.once()) == ["unavailable"]
    assert not procfs.runs(pid)


@LONG
def test_a_login_probe_ends_with_its_watcher(desk: HostileDesk) -> None:
    pids = desk.base / "pids"
    desk.program("", login=f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(300)")

    def asked(times: int) -> bool:
        return pids.exists() and pids.read_text().count("\n") == times

    with desk.watching() as watcher:
        until(lambda: asked(1), "the probe")
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
        until(lambda: not procfs.runs(int(pids.read_text())), "it ends with the watcher")
    with desk.watching() as second:
        until(lambda: asked(2), "the next probe")
        second.send_signal(signal.SIGTERM)
        second.wait()
    assert not any(procfs.runs(int(pid)) for pid in pids.read_text().split())


BEYOND = {
    "and waits": 'init("SendMessage"); time.sleep(300)',
    "and is done at once": 'init("SendMessage"); result("I wrote to another session")',
    "only later": 'init(); text("at work"); init("SendMessage"); result()',
    "and leaves": 'init("SendMessage"); sys.exit(1)',
}


@pytest.mark.parametrize("source", BEYOND.values(), ids=BEYOND.keys())
def test_it_has_a_tool_that_it_may_not_use(source: str, desk: HostileDesk) -> None:
    desk.program(source)
    message = desk.send()
    assert outcomes(desk.once()) == ["unavailable"]
    [ended] = desk.log(EventName.TURN_ENDED)
    assert "SendMessage" in ended["detail"]
    assert "key tools" in ended["detail"]
    assert desk.inbox() == []
    # The message is innocent: it waits, and no attempt of it is lost.
    assert json.loads((desk.state / "retries.json").read_text())[message].get("attempts", 0) == 0
    assert desk.left() == []


def test_a_tool_that_the_configuration_names_may_be_used(desk: HostileDesk) -> None:
    desk.program(BEYOND["and is done at once"], tools=["Bash", "Task", "SendMessage"])
    desk.send()
    assert outcomes(desk.once()) == ["done"]


def test_it_is_older_than_the_fence(desk: HostileDesk) -> None:
    desk.program("sys.exit(\"error: unknown option '--tools'\")")
    message = desk.send()
    assert outcomes(desk.once()) == ["unavailable"]
    detail = desk.log(EventName.TURN_ENDED)[0]["detail"]
    assert "older than the fence" in detail
    assert "npm install" in detail
    assert json.loads((desk.state / "retries.json").read_text())[message].get("attempts", 0) == 0


@LONG
def test_a_helper_without_parent_and_environment_that_hears_no_signal_is_ended(desk: HostileDesk) -> None:
    """Like the helper of codex's sandbox, which sometimes stays: all that binds it to the turn is its session."""
    pid_file = desk.base / "pid"
    helper = (
        "import os, signal, time\n"
        "for s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)\n"
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(300)"
    )
    desk.program(
        "init()\n"
        "if os.fork() == 0:\n"
        "    if os.fork(): os._exit(0)\n"
        f"    os.execve(sys.executable, [sys.executable, '-I', '-S', '-c', {helper!r}], {{}})\n"
        f"while not os.path.exists({str(pid_file)!r}) or not open({str(pid_file)!r}).read(): time.sleep(0.01)\n"
        "result()"
    )
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert not procfs.runs(int(pid_file.read_text()))
