"""The program as a whole: its help, what it loads, its reference, and errors of the command line."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.sizes import LONG
from tests.typed import COMMAND, type_in

from agent_mailer import __version__

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = {"pydantic", "rich", "asyncio", "tomlkit", "filelock", "httpx", "tenacity", "agent_mailer.watch.watcher"}
UNASKED = HEAVY | {
    "platformdirs",
    "secrets",
    "agent_mailer.events",
    "agent_mailer.git_tree",
    "agent_mailer.state.turns",
}
"""What a plain message needs nothing of."""


def loaded(cwd: Path, *words: str, of: frozenset[str] | set[str] = HEAVY, **env: str) -> set[str]:
    """Which heavy modules a command has imported when it ends."""
    script = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('LOADED', sorted({of!r} & set(sys.modules))))\n"
        f"sys.argv = ['agent-mailer', *{list(words)!r}]\n"
        "from agent_mailer.cli.app import main\n"
        "main()\n"
    )
    import os

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=60, env={**os.environ, **env}
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED "))
    return set(ast.literal_eval(line.removeprefix("LOADED ")))


def test_help_and_status_load_nothing_that_they_do_not_use(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.send("x")
    desk.once()
    assert loaded(tmp_path, "--help") == set()
    assert loaded(desk.workdir, "status") == set()
    assert loaded(desk.workdir, "status", "--workdir", str(desk.workdir), "--json") == set()
    assert loaded(desk.workdir, "logs", "--tail", "3") == set()
    desk.send("waits")
    assert loaded(desk.workdir, "status") == set()


def test_a_plain_message_loads_nothing_of_state_and_git(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert loaded(desk.workdir, "send", "--to", "coder", "--body", "x", of=UNASKED) == set()
    assert loaded(desk.workdir, "mail", "inbox", "--as", "coder", of=UNASKED) == set()
    # Neither what a library takes where it is to be had, nor what few opened files need, nor what starts programs.
    lean = {*UNASKED, "typing_extensions", "agent_mailer.linux_calls", "agent_mailer.runtimes.port"}
    assert loaded(desk.workdir, "mail", "contacts", of=lean) == set()


def test_a_watcher_of_a_folder_loads_no_other_mailbox_and_nothing_that_speaks_http(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.configure(reserve=["src/**"])
    desk.send("x")
    out = tmp_path / "modules"
    script = (
        f"import atexit; atexit.register(lambda: open({str(out)!r}, 'w').write(' '.join(sys.modules)))\n"
        "import sys; sys.argv = ['agent-mailer', 'watch', '--once', '--no-interactive']\n"
        "from agent_mailer.cli.app import main\n"
        "main()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=desk.workdir, capture_output=True, timeout=60, check=True)
    assert [answer.strip() for answer in desk.answered()] == ["done"]
    modules = set(out.read_text().split())
    assert "agent_mailer.reservations.leases" in modules
    others = {f"agent_mailer.mailbox.{name}" for name in ("amp", "http", "mcp_agent_mail", "relay", "server_drafts")}
    assert modules & {"httpx", *others} == set()


@LONG  # many commands
def test_each_json_answer_of_mail_says_what_can_be_done_next(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.configure(reservations=True)
    desk.send("hello", to="user")
    listed = type_in(desk.workdir, "mail", "inbox", "--json").json
    (one,) = listed["messages"]
    answers = [listed]
    for words in (
        ("read", one["id"]),
        ("read", "--unread"),
        ("thread", one["thread"]),
        ("send", "--to", "coder", "--subject", "s", "--body", "b"),
        ("reserve", "src/a.py"),
        ("reservations",),
        ("release",),
        ("register",),
        ("contacts",),
        ("who",),
        ("receipts",),
        ("sent",),
        ("search", "hello"),
    ):
        typed = type_in(desk.workdir, "mail", *words, "--json")
        assert typed.status == 0, (words, typed.err, typed.out)
        answers.append(typed.json)
        assert answers[-1]["next"], words
        for step in answers[-1]["next"]:
            assert step["command"].startswith("agent-mailer "), words
            assert set(step) == {"command", "why"}, words


def test_mail_in_a_turn_loads_neither_config_nor_state(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    out = tmp_path / "modules"
    code = (
        f"import atexit; atexit.register(lambda: open({str(out)!r}, 'w').write(' '.join(sys.modules)))\n"
        "import sys; sys.argv = ['agent-mailer', 'mail', 'reply', '--body', 'x']\n"
        "from agent_mailer.cli.app import main\n"
        "main()\n"
    )
    script = tmp_path / "agent.py"
    script.write_text(code)
    desk.configure(command=[sys.executable, str(script)])
    desk.send("x")
    desk.once()
    modules = set(out.read_text().split())
    assert "agent_mailer.turn_tools.commands" in modules
    ours = {name for name in modules if name.startswith("agent_mailer.")}
    foreign = ("config", "assemble", "state", "process", "runtimes", "watch", "mailbox.maildir")
    assert not {name for name in ours if name.startswith(tuple(f"agent_mailer.{room}" for room in foreign))}
    assert not modules & HEAVY


def test_every_command_has_help_and_a_line_in_the_list(tmp_path: Path) -> None:
    listed = type_in(tmp_path, "--help").out
    assert "..." not in listed.split("Begin:")[1]
    for name in ("config", "mail", "turns", "sessions", "memory", "dead-letter"):
        inner = type_in(tmp_path, name, "--help")
        assert inner.status == 0
        assert f"Usage: agent-mailer {name} " in inner.out


@pytest.mark.parametrize("program", ["agent-mailer", "amp"])
def test_both_programs_tell_which_version_they_are_of(tmp_path: Path, program: str) -> None:
    argv = [str(Path(sys.executable).with_name(program)), "--version"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"agent-mailer {__version__}\n")


def test_the_reference_is_what_the_commands_say(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "tools" / "cli_reference.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for word in ("mail finish", "dead-letter retry", "config edit", "demo"):
        assert f"## agent-mailer {word}\n" in (PROJECT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize(
    "words",
    [["nosuch"], ["status", "--bogus"], ["sessions", "show"], ["logs", "--tail", "x"], ["mail"], ["turns", "x"]],
)
def test_a_command_line_that_is_no_command_exits_2(tmp_path: Path, words: list[str]) -> None:
    assert type_in(tmp_path, *words).status == 2
    if words != ["mail"]:
        done = type_in(tmp_path, *words, "--json")
        assert done.status == 2
        assert done.json["error"]["code"] == "usage"


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (desk.state / "log.jsonl").write_text('{"ts":"2025-01-01T00:00:00Z","event":"x"}\n' * 20_000)
    command = f"{shlex.quote(COMMAND)} logs --tail 20000 | head -n 1"
    done = subprocess.run(["sh", "-c", command], cwd=desk.workdir, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_workdir_that_vanished_is_told_plainly(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f"cd '{gone}' && rmdir '{gone}' && exec {shlex.quote(COMMAND)} status"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78
    assert "no longer exists" in done.stderr
