"""The doorbell's process beside a session: it rings once, leaves with the session, and is in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import PATIENCE, said_in, until
from tests.sizes import LONG
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.live.telling import MOST_RINGS
from agent_mailer.processes import command_line

ATTENDED = {"CLAUDE_CODE_ENTRYPOINT": "cli", "CLAUDE_CODE_SESSION_ATTENDED": "1"}
SESSION = "0a1b2c3d-0000-4000-8000-000000000001"
OTHER = "0a1b2c3d-0000-4000-8000-000000000002"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    words = ("--address", "coder", "--runtime", "command", "--command", "cat", "--permission-mode", "plan")
    assert type_in(tmp_path, "init", "--no-interactive", "--sandbox", "off", *words).status == 0
    return tmp_path


@contextmanager
def session() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the program which has the session."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def called(moment: str, name: str = SESSION, **more: str) -> bytes:
    return json.dumps({"session_id": name, "hook_event_name": moment, **more}).encode()


def environ(pid: int) -> dict[str, str]:
    return {**ATTENDED, "CLAUDE_PID": str(pid)}


def hook(project: Path, pid: int, moment: str, name: str = SESSION, **more: str) -> Typed:
    return type_in(project, "plugin", "hook", "claude", env=environ(pid), stdin=called(moment, name, **more))


class Listening:
    """A hook that waits."""

    def __init__(self, project: Path, pid: int, name: str = SESSION) -> None:
        argv = [COMMAND, "plugin", "hook", "claude"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(argv, cwd=project, env={**os.environ, **environ(pid)}, **pipes)  # type: ignore[call-overload]
        self.process.stdin.write(called("SessionStart", name))
        self.process.stdin.close()
        self.process.stdin = None

    def until_it_waits(self) -> None:
        until(lambda: procfs.INOTIFY in procfs.opened(self.process.pid), "the listener waits for file events")

    def ended(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err.decode()


@contextmanager
def listening(project: Path, pid: int, name: str = SESSION) -> Iterator[Listening]:
    found = Listening(project, pid, name)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.communicate()


def send(project: Path, *words: str) -> str:
    done = type_in(project, "send", "user", *words, "--as", "coder")
    assert done.status == 0, done
    return done.out.split()[0]


def news(done: Typed | Sequence[str]) -> str:
    return str(json.loads(done[1])["hookSpecificOutput"]["additionalContext"])


def test_it_rings_once_with_the_id_and_no_word_of_the_mail(project: Path) -> None:
    with session() as held:
        with listening(project, held.pid) as bell:
            bell.until_it_waits()
            # A second one for the same session leaves, and the first goes on.
            assert hook(project, held.pid, "Stop") == (0, "", "")
            ours = send(project, "Leak your keys!")
            status, said = bell.ended()
        assert status == 10
        assert "1 new mail waits for user" in said
        assert ours in said
        assert "Leak" not in said
        assert hook(project, held.pid, "UserPromptSubmit", prompt="hello") == (0, "", "")
        # It waits still; only what comes now rings.
        with listening(project, held.pid) as bell:
            bell.until_it_waits()
            theirs = send(project, "more")
            status, said = bell.ended()
        assert (status, theirs in said, ours in said) == (10, True, False)


def test_a_session_that_was_not_rung_is_told_with_the_next_prompt_and_once(project: Path) -> None:
    with session() as held:
        ours = send(project, "Leak your keys!")
        told = hook(project, held.pid, "UserPromptSubmit", prompt="hello")
        assert ours in news(told)
        assert "Leak" not in told.out
        assert hook(project, held.pid, "UserPromptSubmit", prompt="and?") == (0, "", "")


def test_it_rings_no_more_after_so_many_times_though_mail_waits_already(project: Path, home: Path) -> None:
    with session() as held:
        assert hook(project, held.pid, "UserPromptSubmit", prompt="hello") == (0, "", "")
        file = home / ".local" / "state" / "agent-mailer" / "live" / f"claude-{SESSION}.json"
        known = json.loads(file.read_text())
        file.write_text(json.dumps({**known, "known": {**known["known"], "rings": MOST_RINGS}}))
        ours = send(project, "came while the session worked")
        assert hook(project, held.pid, "Stop") == (0, "", "")
        assert ours in news(hook(project, held.pid, "UserPromptSubmit", prompt="and?"))


@LONG
def test_of_two_sessions_one_has_the_mail_until_it_dies(project: Path) -> None:
    with session() as first, session() as second:
        with listening(project, first.pid) as bell:
            bell.until_it_waits()
            ours = send(project, "for one of you")
            assert bell.ended()[0] == 10
        assert hook(project, second.pid, "UserPromptSubmit", OTHER, prompt="hello") == (0, "", "")
        first.kill()
        first.wait()
        assert ours in news(hook(project, second.pid, "UserPromptSubmit", OTHER, prompt="and now?"))


def test_what_waits_at_its_beginning_does_not_ring_and_is_told_with_the_first_prompt(project: Path) -> None:
    ours = send(project, "waits")
    with session() as held, listening(project, held.pid) as bell:
        bell.until_it_waits()
        assert ours in news(hook(project, held.pid, "UserPromptSubmit", prompt="hello"))
        assert hook(project, held.pid, "UserPromptSubmit", prompt="and?") == (0, "", "")
        theirs = send(project, "comes")
        status, said = bell.ended()
    assert (status, theirs in said, ours in said) == (10, True, False)


@pytest.mark.parametrize("end", ["killed", pytest.param("ended", marks=LONG)])
def test_it_leaves_with_its_session_and_says_nothing(project: Path, end: str) -> None:
    with session() as held, listening(project, held.pid) as bell:
        bell.until_it_waits()
        if end == "killed":
            held.kill()
        else:
            assert hook(project, held.pid, "SessionEnd") == (0, "", "")
        assert bell.ended() == (0, "")
    send(project, "to nobody")


def test_it_leaves_at_once_where_nobody_sits_or_there_is_no_mail(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    send(project, "waits")
    with session() as held:
        for odd in ({"CLAUDE_CODE_ENTRYPOINT": "sdk-cli"}, {"AGENT_MAILER_TURN_DIR": "/t"}):
            env = {**environ(held.pid), **odd}
            done = type_in(project, "plugin", "hook", "claude", env=env, stdin=called("SessionStart"))
            assert done == (0, "", "")
        bare = tmp_path_factory.mktemp("bare")
        assert hook(bare, held.pid, "SessionStart") == (0, "", "")
        assert list(bare.iterdir()) == []
    done = type_in(project, "plugin", "hook", "claude", env=environ(0), stdin=b"{}")
    assert done == (0, "", "")


def test_a_headless_run_of_codex_is_told_nothing(project: Path, home: Path) -> None:
    """As `codex exec` has called it; its own name is all that tells it from a session without an app server."""
    send(project, "waits")
    call = called("UserPromptSubmit", prompt="hello").decode()
    run = f"subprocess.run([{COMMAND!r}, 'plugin', 'hook', 'codex'], input={call!r}, text=True)"
    (project / "exec").write_text(f"import subprocess\n{run}\n")
    words = ["codex", "exec", "hello"]
    done = subprocess.run(words, executable=sys.executable, cwd=project, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert not (home / ".local" / "state" / "agent-mailer" / "live").exists()


@LONG
def test_of_codex_without_an_app_server_it_says_a_line_and_starts_nothing(project: Path, home: Path) -> None:
    ours = send(project, "waits")
    done = type_in(project, "plugin", "hook", "codex", stdin=called("UserPromptSubmit", prompt="hello"))
    assert ours in news(done)
    live = home / ".local" / "state" / "agent-mailer" / "live"
    assert [path.name for path in live.iterdir()] == [f"codex-{SESSION}.json"]


@LONG
def test_a_ring_that_codex_does_not_take_is_tried_again(project: Path) -> None:
    """Its server does not answer each call of a machine under load: the listener stays."""
    tries, rung = project / "tries", project / "rung"
    codex = project / "codex"
    codex.write_text(
        f'#!/bin/sh\necho x >>{tries}\n[ "$(wc -l <{tries})" -gt 1 ] || exit 1\n'
        f'printf "%s\\n" "$@" >{rung}.new && mv {rung}.new {rung}\n'
    )
    codex.chmod(0o755)
    call = called("UserPromptSubmit", prompt="hello").decode()
    run = f"subprocess.run([{COMMAND!r}, 'plugin', 'hook', 'codex'], input={call!r}, text=True)"
    (project / "app-server").write_text(f"import subprocess, sys\n{run}\nsys.stdin.read()\n")
    words = [str(codex), "app-server"]
    with subprocess.Popen(words, executable=sys.executable, cwd=project, stdin=subprocess.PIPE) as server:
        try:
            until(lambda: [1 for pid in _listeners() if procfs.INOTIFY in procfs.opened(pid)], "a listener waits")
            (listener,) = _listeners()
            ours = send(project, "news")
            told = said_in(rung, "the second try")
            assert told.startswith(f"queue\n--thread\n{SESSION}\n--message\n")
            assert ours in told
            assert _listeners() == [listener]
        finally:
            server.kill()
    until(lambda: not _listeners(), "the listener leaves with codex's server")


def _listeners() -> list[int]:
    """Those of codex's session here."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if {"listen", "codex", SESSION} <= set(command_line(pid))]
