"""`init` and `config`: a whole file or none, values never lost, wrong ones refused with the command that mends them."""

from __future__ import annotations

import os
import pty
import select
import signal
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.desk import PATIENCE, Desk, until
from tests.terminal import waits
from tests.typed import COMMAND, type_in

from agent_mailer.cli.config import edit
from agent_mailer.errors import ConfigFault

FLAGS = ("--address", "coder", "--runtime", "command", "--command", "cat -", "--permission-mode", "plan")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A folder of an agent, not in a git tree."""
    folder = tmp_path / "coder"
    folder.mkdir()
    return folder


@pytest.fixture
def agent(workdir: Path) -> Path:
    """A folder that has been set up."""
    assert type_in(workdir, "init", *FLAGS).status == 0
    return workdir


def config_of(workdir: Path) -> Path:
    return workdir / ".agent-mailer" / "config.toml"


def values_of(workdir: Path) -> dict[str, object]:
    return tomllib.loads(config_of(workdir).read_text())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_makes_everything_and_nothing_twice(workdir: Path) -> None:
    for folder in ("objects", "refs"):
        (workdir / ".git" / folder).mkdir(parents=True)
    (workdir / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (workdir / ".gitignore").write_text("*.o")
    done = type_in(workdir, "init", *FLAGS, "--max-parallel-turns", "2")
    assert done.status == 0, done
    assert values_of(workdir) == {
        "address": "coder",
        "runtime": "command",
        "command": ["cat", "-"],
        "permission_mode": "plan",
        "max_parallel_turns": 2,
        "maildir_root": ".agent-mail",
    }
    assert "# acceptEdits, bypassPermissions or plan; never guessed\n" in config_of(workdir).read_text()
    assert (mode(config_of(workdir)), mode(workdir / ".agent-mailer")) == (0o600, 0o700)
    assert sorted(p.name for p in (workdir / ".agent-mail" / "agents").iterdir()) == ["coder", "user"]
    assert (workdir / ".git" / "info" / "exclude").read_text() == "/.agent-mailer/\n/.agent-mail/\n"
    assert (workdir / ".gitignore").read_text() == "*.o"
    assert "Global memory of coder" in (workdir / ".agent-mailer" / "memory" / "global.md").read_text()
    assert "agent-mailer watch\n" in done.out
    assert "agent-mailer send --to coder " in done.out
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != ".lock"}
    again = type_in(workdir, "init")
    assert again.status == 0, again
    assert "unchanged" in again.out
    assert {path: path.read_bytes() for path in before} == before


def test_init_says_that_the_agent_program_is_not_here_yet(workdir: Path) -> None:
    flags = ("--address", "coder", "--runtime", "command", "--command", "no-such-agent -x", "--permission-mode", "plan")
    done = type_in(workdir, "init", *flags)
    assert (done.status, "agent-mailer watch" in done.out) == (0, True), done
    assert "warning: the command no-such-agent is not in PATH" in done.err
    assert "fix: install no-such-agent" in done.err


def test_init_says_what_it_changes_and_keeps_what_it_does_not_know(agent: Path) -> None:
    path = config_of(agent)
    path.write_text("# mine\nstrange = 1 # stays\n" + path.read_text() + "\n[retry]\nfirst = 5\n")
    done = type_in(agent, "init", "--permission-mode", "acceptEdits", "--project-dir", "..")
    assert done.status == 0, done
    assert "permission_mode: plan -> acceptEdits" in done.out
    text = path.read_text()
    assert text.startswith("# mine\nstrange = 1 # stays\n")
    assert values_of(agent)["project_dir"] == str(agent.parent)
    assert values_of(agent)["retry"] == {"first": 5}


def test_init_without_a_terminal_names_every_missing_key_and_leaves_nothing(workdir: Path) -> None:
    done = type_in(workdir, "init", "--runtime", "command")
    assert done.status == 78
    for named in ("address (--address)", "command (--command)", "permission_mode (--permission-mode:"):
        assert named in done.err
    # The command that mends it is another than the one that failed, and says again what was said.
    assert "fix: agent-mailer init --address NAME --runtime command --command 'PROGRAM ARGUMENTS'" in done.err
    watch = type_in(workdir, "watch", "--no-interactive")
    assert watch.status == 78
    assert "runtime (--runtime:" in watch.err
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "status", "word"),
    [
        (("--address", "Coder Smith"), 2, "cannot name a folder mailbox"),
        (("--permission-mode", "yolo"), 78, "acceptEdits, bypassPermissions, plan"),
        (("--runtime", "gpt"), 78, "claude, codex, command"),
        (("--command", "cat 'x"), 2, "No closing quotation"),
        (("--max-retries", "many"), 2, "max-retries"),
        (("--max-retries", "-1"), 78, "--max-retries: must be"),
    ],
)
def test_init_refuses_bad_values_before_it_writes(
    workdir: Path, flags: tuple[str, ...], status: int, word: str
) -> None:
    done = type_in(workdir, "init", *FLAGS, *flags)
    assert done.status == status, done
    assert word in done.err
    assert "\n  fix: " in done.err
    assert list(workdir.iterdir()) == []


def test_init_never_leaves_half_a_config(workdir: Path) -> None:
    (workdir / ".agent-mail").write_text("in the way")
    done = type_in(workdir, "init", *FLAGS, "--maildir-root", ".agent-mail")
    assert done.status == 78, done
    assert [path.name for path in workdir.iterdir()] == [".agent-mail"]
    assert (workdir / ".agent-mail").read_text() == "in the way"


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    for words in (["init", *FLAGS], ["watch", "--once"], ["status", "--json"]):
        done = type_in(odd, *words)
        assert done.status == 78, done
        assert "is not UTF-8 text" in done.out + done.err
    assert list(odd.iterdir()) == []


def test_init_joins_a_root_that_is_there(tmp_path: Path, agent: Path) -> None:
    other = tmp_path / "planner"
    other.mkdir()
    root = agent / ".agent-mail"
    done = type_in(other, "init", *FLAGS, "--address", "planner", "--maildir-root", root)
    assert done.status == 0, done
    assert (root / "agents" / "planner" / "inbox" / "new").is_dir()
    assert not (other / ".agent-mail").exists()


def test_another_address_for_an_agent_would_leave_a_deaf_mailbox(agent: Path) -> None:
    before = config_of(agent).read_bytes()
    refused = type_in(agent, "init", "--address", "poet", "--no-interactive")
    assert refused.status == 2
    assert "never read what is sent to coder" in refused.err
    assert "fix: agent-mailer agent rename poet; or, where another agent reads the mail of coder" in refused.err
    assert config_of(agent).read_bytes() == before
    assert not (agent / ".agent-mail" / "agents" / "poet").exists()
    assert type_in(agent, "agent", "rename", "poet").status == 0
    assert type_in(agent, "init", "--address", "poet", "--no-interactive").status == 0


@pytest.mark.parametrize("root", ["mail", "some/where/mail", "../beside"])
def test_init_makes_a_root_of_any_name(workdir: Path, root: str) -> None:
    done = type_in(workdir, "init", *FLAGS, "--maildir-root", root)
    assert done.status == 0, done
    assert sorted(p.name for p in (workdir / root / "agents").iterdir()) == ["coder", "user"]
    assert type_in(workdir, "send", "--to", "coder", "--body", "x").status == 0


def test_init_asks_on_a_terminal_and_does_not_guess_the_permission_mode(workdir: Path) -> None:
    answers = ["", "Bad Name", "helper", "", "cat -", "", "dangerous", "plan"]
    status, screen = on_terminal(workdir, ["init"], answers)
    assert status == 0, screen
    assert "cannot name a folder mailbox" in screen
    assert "everything you may do" in screen
    assert values_of(workdir) == {
        "address": "helper",
        "runtime": "command",
        "command": ["cat", "-"],
        "permission_mode": "plan",
        "maildir_root": ".agent-mail",
    }


def test_ctrl_c_at_a_question_leaves_everything_as_it_was(workdir: Path) -> None:
    status, _ = on_terminal(workdir, ["init"], ["", "helper", "\x03"])
    assert status == 130
    assert list(workdir.iterdir()) == []


def test_ctrl_c_at_the_last_question_leaves_everything_as_it_was(workdir: Path) -> None:
    (workdir / "AGENT.md").write_text("# An agent\n\n## Mail protocol\n\nUse curl.\n")
    status, screen = on_terminal(workdir, ["init", *FLAGS, "--address", "helper"], ["\x03"])
    assert (status, "Replace 'Mail protocol' in AGENT.md like this?" in screen) == (130, True), screen
    assert [path.name for path in workdir.iterdir()] == ["AGENT.md"]


def test_watch_on_a_terminal_asks_what_its_flags_do_not_say(workdir: Path) -> None:
    words = ["watch", "--once", "--runtime", "command", "--command", "cat", "--address", "helper", "--max-retries", "7"]
    status, screen = on_terminal(workdir, words, ["plan"])
    assert status == 0, screen
    assert " watches " in screen
    # What no watcher starts without is kept. What else was said counts for this run.
    assert values_of(workdir) == {
        "address": "helper",
        "runtime": "command",
        "command": ["cat"],
        "permission_mode": "plan",
        "maildir_root": ".agent-mail",
    }


def test_config_show_tells_values_and_where_they_come_from(agent: Path) -> None:
    path = config_of(agent)
    path.write_text(path.read_text() + 'api_key = "amk_secret"\nstrange = 1\n')
    env = {"AGENT_MAILER_MAX_RETRIES": "9"}
    shown = type_in(agent, "config", "show", "--json", env=env)
    keys = shown.json["keys"]
    assert keys["max_retries"] == {"value": 9, "source": "environment"}
    assert keys["command"] == {"value": ["cat", "-"], "source": "config.toml"}
    assert keys["turn_timeout"] == {"value": 3600, "source": "default"}
    assert keys["retry"]["value"] == {"first": 10, "longest": 600}
    assert shown.json["unknown"] == ["strange"]
    screen = type_in(agent, "config", "show", env=env)
    assert "amk_secret" not in shown.out + screen.out + screen.err
    assert keys["api_key"]["value"]
    assert any(line.split() == ["max_retries", "9", "environment"] for line in screen.out.splitlines())
    assert "strange" in screen.err


def test_config_set_is_typed_and_keeps_the_rest(agent: Path) -> None:
    path = config_of(agent)
    path.write_text("# mine\nstrange = 1\n" + path.read_text() + "\n[env]\npass = ['LANG']\n")
    for key, words in {
        "max_retries": ["5"],
        "command": ["claude -p --allowedTools 'Bash(x:*)'"],
        "auto_reply": ["never"],
        "api_key": ["amk_secret"],
    }.items():
        done = type_in(agent, "config", "set", key, *words)
        assert done.status == 0, done
        assert "amk_secret" not in done.out + done.err
    text = path.read_text()
    assert text.startswith("# mine\nstrange = 1\n")
    values = values_of(agent)
    assert values["max_retries"] == 5
    assert values["command"] == ["claude", "-p", "--allowedTools", "Bash(x:*)"]
    assert values["env"] == {"pass": ["LANG"]}
    assert values["api_key"] == "amk_secret"
    assert mode(path) == 0o600


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("nonsense", "1"), "no key 'nonsense'"),
        (("max_retries", "few"), "whole number"),
        (("max_retries", "-3"), "max_retries"),
        (("runtime", "gpt"), "claude, codex, command"),
        (("retry", "5"), "table"),
        (("command", "cat 'x"), "quotation"),
        (("address", "Not A Handle"), "cannot name a folder mailbox"),
        (("auto_reply", "a", "b"), "one value"),
    ],
)
def test_config_set_refuses_and_leaves_the_file(agent: Path, words: tuple[str, ...], word: str) -> None:
    before = config_of(agent).read_bytes()
    done = type_in(agent, "config", "set", *words)
    assert done.status == 2, done
    assert word in done.err
    assert config_of(agent).read_bytes() == before


def test_config_edit_takes_only_a_valid_file(agent: Path, tmp_path: Path) -> None:
    path = config_of(agent)
    before = path.read_bytes()
    broken = type_in(agent, "config", "edit", env=_editor(tmp_path, 'printf \'max_retries = "x"\\n\' > "$1"'))
    assert broken.status == 78, broken
    assert "max_retries" in broken.err
    assert path.read_bytes() == before
    [kept] = path.parent.glob("config-*.edit.toml")
    assert kept.read_bytes() == b'max_retries = "x"\n'
    assert f"your text is {kept}" in broken.err
    failing = type_in(agent, "config", "edit", env=_editor(tmp_path, "echo '# mine' >> \"$1\"; exit 3"))
    assert (failing.status, path.read_bytes()) == (1, before)
    [later] = {*path.parent.glob("config-*.edit.toml")} - {kept}
    assert later.read_bytes() == before + b"# mine\n", "what was typed is kept"
    assert f"your text is {later}" in failing.err
    same = type_in(agent, "config", "edit", env=_editor(tmp_path, "true"))
    assert (same.status, same.out) == (0, "nothing was changed\n")
    good = type_in(agent, "config", "edit", env=_editor(tmp_path, "echo 'max_retries = 7' >> \"$1\""))
    assert good.status == 0, good
    assert values_of(agent)["max_retries"] == 7
    assert mode(path) == 0o600
    assert {*path.parent.glob("config-*.edit.toml")} == {kept, later}
    assert type_in(agent, "config", "edit", env={"EDITOR": "/nowhere/ed", "VISUAL": ""}).status == 2


def test_what_was_changed_while_the_editor_was_open_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    path = config_of(desk.workdir)
    elsewhere = b"max_starts = 3\n" + path.read_bytes()
    (tmp_path / "elsewhere").write_bytes(elsewhere)
    script = f'sed -i "1i max_retries = 7" "$1" && cp {tmp_path}/elsewhere {path}'
    for name, value in _editor(tmp_path, script).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigFault, match="changed by somebody else meanwhile"):
        edit(desk.workdir)
    assert path.read_bytes() == elsewhere
    [kept] = path.parent.glob("config-*.edit.toml")
    assert b"max_retries = 7" in kept.read_bytes(), "what was typed is kept"


def test_config_edit_mends_what_is_no_toml(agent: Path, tmp_path: Path) -> None:
    config_of(agent).write_text("address = \n")
    for words in (["config", "show"], ["status"], ["config", "set", "max_retries", "1"], ["watch", "--once"]):
        done = type_in(agent, *words)
        assert (done.status, "agent-mailer config edit" in done.err) == (78, True), done
    mended = type_in(agent, "config", "edit", env=_editor(tmp_path, 'echo \'address = "coder"\' > "$1"'))
    assert mended.status == 0, mended
    assert "no watcher runs" in type_in(agent, "status").out


def test_a_config_or_folder_that_others_can_read_is_refused(agent: Path) -> None:
    for path, wrong, right in ((config_of(agent), 0o644, 0o600), (agent / ".agent-mailer", 0o755, 0o700)):
        path.chmod(wrong)
        for words in (["status"], ["config", "show"], ["watch", "--once"], ["memory", "ls"], ["pause"]):
            done = type_in(agent, *words)
            assert done.status == 78, done
            assert f"chmod {right:o} {path}" in done.err
        assert type_in(agent, "status", "--json").json["error"]["code"] == "permissions"
        path.chmod(right)


def test_wrong_types_in_the_file_name_key_file_and_mend(agent: Path) -> None:
    path = config_of(agent)
    good = path.read_text()
    for line in ('max_retries = "3"', "max_retries = 2.5", 'runtime = "gpt"', "command = 5", "[retry]\nfirst = -1"):
        key = line.removeprefix("[").split("]")[0].split(" ")[0]
        path.write_text("\n".join(row for row in good.splitlines() if not row.startswith(key)) + f"\n{line}\n")
        done = type_in(agent, "status", "--json")
        assert done.status == 78, (line, done)
        assert key in done.json["error"]["message"]
        assert str(path) in done.json["error"]["message"]
        assert done.json["error"]["fix"]


def test_a_folder_without_an_agent_says_so(tmp_path: Path) -> None:
    for words in (["status"], ["config", "show"], ["sessions", "list"], ["turns", "list"], ["logs"], ["resume"]):
        done = type_in(tmp_path, *words)
        assert (done.status, "agent-mailer init" in done.err) == (78, True), done
    assert type_in(tmp_path, "status", "-C", "nowhere").status == 78
    assert list(tmp_path.iterdir()) == []


def _editor(tmp_path: Path, script: str) -> dict[str, str]:
    path = tmp_path / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"EDITOR": str(path), "VISUAL": ""}


def on_terminal(cwd: Path, words: list[str], answers: list[str]) -> tuple[int, str]:
    """Run a command on a terminal of its own and type `answers`, one after each prompt."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", COMMAND, *words],
        cwd=cwd,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test runner may ignore it
    )
    os.close(follower)
    screen = ""
    try:
        while True:
            assert select.select([leader], [], [], PATIENCE)[0], f"nothing more comes:\n{screen}"
            try:
                block = os.read(leader, 4096)
            except OSError:
                break
            if not block:
                break
            screen += block.decode("utf-8", "replace")
            if answers and screen.rstrip("\r\n").endswith(": "):
                answer = answers.pop(0)
                screen += "<answered>"
                if answer == "\x03":
                    until(lambda: waits(process.pid), "it waits for a key")
                    os.write(leader, b"\x03")
                else:
                    os.write(leader, answer.encode() + b"\n")
    finally:
        os.close(leader)  # a hang-up ends what still runs
        status = process.wait(timeout=PATIENCE)
    return status, screen
