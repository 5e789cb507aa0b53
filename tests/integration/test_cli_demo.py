"""`demo`: what a newcomer sees, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.desk import until
from tests.sizes import LONG
from tests.typed import COMMAND, type_in

from agent_mailer.demo import stage
from agent_mailer.demo.stage import FolderStage
from agent_mailer.names import new_turn_id
from agent_mailer.process.commands import start_command
from agent_mailer.process.holder import TURN_ID_VARIABLE


def leftovers(folder: Path) -> list[str]:
    """Command lines of processes that belong to a demo in `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(entry / "cwd")
        except OSError:
            continue
        if str(folder) in line or where.startswith(str(folder)):
            found.append(line)
    return found


def check_order(out: str, lines: list[str]) -> None:
    """All of it is there, in this order. But who gets a message may be quicker than the line of who sent it."""
    assert [line for line in lines if line not in out] == [], out
    for part in (
        [line for line in lines if " sends a message " not in line],
        [line for line in lines if " has mail " not in line],
    ):
        positions = [out.find(line) for line in part]
        assert positions == sorted(positions), out


def test_the_demo_shows_two_agents_at_work_and_cleans_up(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    done = type_in(tmp_path, "demo", "--dir", folder)
    assert done.status == 0, done
    order = [
        'you      send "The first ten primes" to planner',
        "planner  has mail from user",
        "planner  sends a message to coder",
        "coder    has mail from planner",
        "coder    sends a message to planner",
        "planner  sends a message to user",
        "you      have mail from planner",
        "2 3 5 7 11 13 17 19 23 29",
        "--runtime claude --permission-mode acceptEdits",
        "--runtime codex",
    ]
    check_order(done.out, order)
    assert "trouble" not in done.out
    assert not folder.exists()
    assert leftovers(folder) == []


@LONG
def test_the_demo_at_a_broker_shows_the_same_and_cleans_up(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    done = type_in(tmp_path, "demo", "--broker", "--dir", folder)
    assert done.status == 0, done
    order = [
        "broker   serves at http://127.0.0.1:",
        "you      are its first user",
        'you      send "The first ten primes" to planner',
        "planner  has mail from human-operator",
        "planner  sends a message to coder",
        "coder    has mail from planner",
        "coder    sends a message to planner",
        "planner  sends a message to human-operator",
        "you      have mail from planner",
        "2 3 5 7 11 13 17 19 23 29",
        "agent-mailer broker serve",
    ]
    check_order(done.out, order)
    assert "trouble" not in done.out
    assert not folder.exists()
    assert leftovers(folder) == []


@LONG
def test_the_demo_can_be_kept_and_its_mail_is_plain_files(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    done = type_in(tmp_path, "demo", "--keep", "--dir", folder)
    assert done.status == 0, done
    assert f"Kept: {folder}" in done.out
    (answer,) = (folder / "mail" / "agents" / "user" / "inbox" / "cur").glob("*.md")
    assert "2 3 5 7" in answer.read_text()
    assert (folder / "coder" / "primes.sh").is_file()
    assert "done" in type_in(folder / "planner", "turns", "list").out
    again = type_in(tmp_path, "demo", "--dir", folder)
    assert (again.status, "not empty" in again.err) == (2, True), again
    assert leftovers(folder) == []


@LONG
@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGINT, 130, ()),
        pytest.param(signal.SIGTERM, 143, (), marks=LONG),
        pytest.param(signal.SIGINT, 130, ("--broker",), marks=LONG),
    ],
)
def test_ctrl_c_ends_everything_it_started(tmp_path: Path, number: int, status: int, words: tuple[str, ...]) -> None:
    folder, screen = tmp_path / "scratch", tmp_path / "screen"
    with screen.open("wb") as stream:
        process = subprocess.Popen(
            [COMMAND, "demo", "--dir", str(folder), *words],
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test runner may ignore it
        )
    until(lambda: "starts its agent" in screen.read_text(), "the first turn")
    process.send_signal(number)
    assert process.wait(timeout=60) == status, screen.read_text()
    assert "Traceback" not in screen.read_text()
    assert "stopping" in screen.read_text()
    assert not folder.exists()
    assert leftovers(folder) == []


@pytest.mark.parametrize("stubborn", ["planner", "coder"])
def test_whichever_watcher_had_to_be_killed_what_its_turn_has_started_ends_with_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: str
) -> None:
    monkeypatch.setattr(stage, "STOP_SECONDS", 0.0)
    played, turn = FolderStage(tmp_path), new_turn_id(1_700_000_000.0)
    (tmp_path / stubborn / ".agent-mailer" / "turns" / turn).mkdir(parents=True)
    for name in played.names:
        words = ["sleep", "600"] if name == stubborn else ["true"]
        played.watchers[name] = start_command(words, env=os.environ, cwd=tmp_path, output=played.output(name))
    [other] = [running for name, running in played.watchers.items() if name != stubborn]
    until(lambda: other.status() is not None, "its own end")
    env = {**os.environ, TURN_ID_VARIABLE: turn}
    with subprocess.Popen(["sleep", "600"], env=env, start_new_session=True) as left:
        try:
            played.close()
            assert left.poll() is not None
        finally:
            left.kill()


def test_a_folder_with_hidden_things_alone_is_somebodys(tmp_path: Path) -> None:
    (tmp_path / "mine" / ".ssh").mkdir(parents=True)
    done = type_in(tmp_path, "demo", "--dir", tmp_path / "mine")
    assert (done.status, "not empty" in done.err) == (2, True), done
    assert (tmp_path / "mine" / ".ssh").is_dir()


def play(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A demo in a temporary folder of its own, whose home is new."""
    env = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path / "home")}
    return subprocess.Popen([COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)


def scratch(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("agent-mailer-demo-*"))


@LONG
def test_a_reader_who_has_seen_enough_leaves_nothing_behind(tmp_path: Path) -> None:
    """As `./run demo | head -1`."""
    with play(tmp_path) as process:
        assert process.stdout is not None
        assert b"Two agents" in process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=60)
    assert (scratch(tmp_path), leftovers(tmp_path)) == ([], [])
    assert not (tmp_path / "home").exists(), "no list of agents ever named them"


@LONG
def test_what_a_demo_that_was_killed_outright_left_goes_with_the_next(tmp_path: Path) -> None:
    with play(tmp_path) as process:
        assert process.stdout is not None
        while b"starts its agent" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()
    until(lambda: not leftovers(tmp_path), "all that it had started has ended")
    [left] = scratch(tmp_path)
    mine = tmp_path / "agent-mailer-demo-kept"
    mine.mkdir()
    with play(tmp_path) as second, play(tmp_path) as third:
        for process in (second, third):
            assert process.communicate()[0], "neither takes the other's"
    assert (second.returncode, third.returncode) == (0, 0)
    assert not left.exists()
    assert scratch(tmp_path) == [mine], "one that was kept stays"
    assert not (tmp_path / "home").exists()


@LONG
def test_a_demo_that_fails_says_where_to_look(tmp_path: Path) -> None:
    """Here the coder's `cat` does not work, so it cannot do the task."""
    folder = tmp_path / "scratch"
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cat").write_text("#!/bin/sh\nexit 9\n")
    (tools / "cat").chmod(0o755)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    done = type_in(tmp_path, "demo", "--dir", folder, env={"PATH": path})
    assert done.status == 1, done
    assert f"{folder}/*.log" in done.err
    assert (folder / "coder.log").stat().st_size > 0
    assert leftovers(folder) == []


def test_run_demo_is_the_installed_command() -> None:
    assert 'exec "$venv/bin/agent-mailer" demo' in (Path(__file__).parents[2] / "run").read_text()
    assert Path(COMMAND).parent == Path(sys.executable).parent
