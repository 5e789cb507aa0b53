"""What a person types every day: `agent-mailer` alone, `send coder "text"`, `inbox`, `config get`; wrong folders."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.e2e.throwaway import as_throwaway, is_nobody
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.state.workdirs import remember


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    remember(found.workdir)
    return found


def at(desk: Desk, *words: str, stdin: str | None = None) -> Typed:
    return type_in(desk.workdir, *words, stdin=stdin)


def test_alone_it_shows_my_agents_what_needs_me_and_the_next_step(desk: Desk) -> None:
    shown = at(desk)
    assert shown.status == 0
    agents, needs, following = shown.out.split("\n\n")
    assert agents.splitlines()[1].split()[:3] == ["coder", "no", "watcher"]
    assert "agent-mailer watch" in needs
    assert 'agent-mailer send coder "TEXT"' in following
    assert "-C" not in shown.out  # we are there
    elsewhere = type_in(desk.base, env={"HOME": str(desk.base)})
    assert 'agent-mailer send coder "TEXT" -C ~/coder' in elsewhere.out


def test_a_long_address_moves_no_other_commands_remark(desk: Desk) -> None:
    far = "c" * 200
    desk.configure(address=far)
    following = at(desk).out.split("\n\n")[-1].splitlines()
    assert f'  agent-mailer send {far} "TEXT"  write to it' in following
    assert "  agent-mailer inbox  read what it answers" in following
    assert max(len(line) for line in following if far not in line) < 80


def test_the_folders_of_all_agents_stand_in_one_column(desk: Desk) -> None:
    other = desk.base / "second"
    (other / ".agent-mailer").mkdir(parents=True)
    (other / ".agent-mailer" / "config.toml").write_text("= no TOML\n")
    remember(other)
    desk.send("ask")
    agents = type_in(desk.workdir, env={"HOME": str(desk.base)}).out.split("\n\n")[0].splitlines()[1:]
    assert {line.split()[-1] for line in agents} == {"~/coder", "~/second"}
    assert len({line.index("~/") for line in agents}) == 1, agents


def test_alone_without_agents_it_says_how_one_begins(tmp_path: Path) -> None:
    shown = type_in(tmp_path)
    assert shown.status == 0
    assert "No agents yet." in shown.out
    assert "agent-mailer init" in shown.out


@pytest.mark.parametrize("below", [False, True])
def test_in_a_folder_without_an_agent_a_command_names_those_there_are(desk: Desk, below: bool) -> None:
    folder = desk.workdir / "src" / "deep" if below else desk.base / "elsewhere"
    folder.mkdir(parents=True)
    failed = type_in(folder, "turns", "list", env={"HOME": str(desk.base)})
    assert failed.status == 78
    again = "agent-mailer turns list -C ~/coder"
    assert again in failed.err
    if below:
        assert f"{folder} has no agent; coder is in {desk.workdir}" in failed.err
        assert "init" not in failed.err
    # What it says can be typed as it is.
    words = shlex.split(again.replace("~", str(desk.base)))[1:]
    assert type_in(folder, *words).status == 0


def test_send_takes_whom_and_what_without_options(desk: Desk) -> None:
    sent = at(desk, "send", "coder", "Write a haiku.\nAbout rain.")
    assert sent.status == 0, sent
    [message] = desk.inbox("coder")
    assert (message.subject, message.body) == ("Write a haiku.", "Write a haiku.\nAbout rain.\n")
    assert at(desk, "send", "--to", "coder", "x" * 100).status == 0
    assert desk.inbox("coder")[-1].subject == "x" * 69 + "…"
    assert at(desk, "send", "coder", "--subject", "S", "--body-file", "-", stdin="from a pipe").status == 0
    assert desk.inbox("coder")[-1].subject == "S"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("coder", "hello", "there"), "agent-mailer send coder 'hello there'"),
        (("codr", "hello"), "known are: coder, planner, user"),
        (("coder", "hello", "--body", "too"), "a second text"),
        (("coder",), "no text"),
        ((), "agent-mailer send ADDRESS"),
    ],
)
def test_what_is_not_quite_a_message_is_told(desk: Desk, words: tuple[str, ...], says: str) -> None:
    failed = at(desk, "send", *words)
    assert failed.status == 2
    assert says in failed.err
    assert desk.inbox("coder") == []


def test_inbox_is_mail_inbox(desk: Desk) -> None:
    desk.send("hello", sender="planner", to="user", subject="A word")
    short, long = at(desk, "inbox"), at(desk, "mail", "inbox")
    assert short.out == long.out
    assert "A word" in short.out


def test_config_get_and_unset(desk: Desk) -> None:
    config = desk.state / "config.toml"
    before = config.read_text()
    assert at(desk, "config", "get", "max_retries").out == "3\n"
    assert at(desk, "config", "set", "max_retries", "2").status == 0
    assert at(desk, "config", "get", "max_retries", "--json").json == {
        "key": "max_retries",
        "value": 2,
        "source": "config.toml",
    }
    assert at(desk, "config", "unset", "max_retries").out == "max_retries: 2 -> not set\n"
    assert [line for line in config.read_text().splitlines() if line] == [line for line in before.splitlines() if line]
    assert at(desk, "config", "unset", "max_retries").out.startswith("max_retries is not in ")
    assert at(desk, "config", "get", "retry.first").out == "1\n"
    assert at(desk, "config", "unset", "retry.first").status == 0
    assert at(desk, "config", "get", "retry.longest").out == "1\n"
    missing = at(desk, "config", "unset", "runtime")
    assert "watch needs runtime" in missing.err
    secret = at(desk, "config", "set", "api_key", "-", stdin="amk_secret\n")
    assert secret.status == 0
    assert "amk_secret" not in "".join(at(desk, "config", "get", "api_key", *more).out for more in ((), ("--json",)))


def test_a_key_that_is_meant_is_named(desk: Desk) -> None:
    for command in (("get", "max_retrys"), ("set", "max_retrys", "3"), ("unset", "max_retrys")):
        failed = at(desk, "config", *command)
        assert failed.status == 2
        assert "did you mean max_retries" in failed.err
    config = desk.state / "config.toml"
    config.write_text(f"permision_mode = 'plan'\n{config.read_text()}")
    for command in (("config", "show"), ("watch", "--once", "--no-interactive")):
        shown = at(desk, *command)
        assert shown.status == 0
        assert "permision_mode; did you mean permission_mode?" in shown.err


def test_during_a_turn_no_other_agents_are_named(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    failed = type_in(folder, "turns", "list", env={"AGENT_MAILER_TURN_DIR": os.devnull, "HOME": str(tmp_path)})
    assert failed.status == 78
    assert "coder" not in failed.err


def test_help_is_about_commands_and_words(desk: Desk) -> None:
    assert at(desk, "help", "config", "set").out.startswith("Usage: agent-mailer config set")
    assert "Examples:\n  agent-mailer config set max_retries 3\n" in at(desk, "config", "set", "--help").out
    whole = at(desk, "help").out
    for words in ("Begin:", "What needs you:", "Topics (agent-mailer help TOPIC):"):
        assert words in whole
    assert "acceptEdits" in at(desk, "help", "modes").out
    failed = at(desk, "help", "mdoes")
    assert (failed.status, "did you mean modes?" in failed.err) == (2, True)


def test_an_agent_whose_folder_was_moved_is_shown_where_one_stands(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "a")
    remember(desk.workdir)
    moved = desk.workdir.rename(tmp_path / "moved")
    for words in ((), ("status", "--all")):
        shown = type_in(moved, *words).out
        assert "coder" in shown, words
    listed = type_in(moved, "status", "--all", "--json").json["workdirs"]
    assert [one["workdir"] for one in listed] == [str(moved)]
    assert type_in(tmp_path, "status", "--all", "--json").json["workdirs"] == []


@pytest.mark.skipif(not is_nobody(), reason="root may read everything")
@pytest.mark.parametrize("words", [("inbox",), ("send", "coder", "hi"), ("status",), ("doctor",), ()])
def test_a_mailbox_folder_that_is_shut_is_not_said_to_be_gone(desk: Desk, words: tuple[str, ...]) -> None:
    desk.root.chmod(0)
    try:
        done = subprocess.run(
            as_throwaway([COMMAND, *words]), cwd=desk.workdir, stdin=-3, capture_output=True, text=True, check=False
        )
    finally:
        desk.root.chmod(0o700)
    said = " ".join((done.stdout + done.stderr).split())
    assert f"{desk.root} cannot be looked into: Permission denied" in said, done
    assert "agents folder" not in said
    assert "init" not in said
    if words in (("inbox",), ("doctor",)):
        assert f"fix: chmod u+rwX {desk.root}" in said
