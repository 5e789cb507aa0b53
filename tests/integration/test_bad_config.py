"""A configuration that is wrong: `watch` says what, where and what mends it, leaves with 78 and changes nothing."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from tests.desk import Desk
from tests.typed import Typed, type_in

KEY = "amk_0123456789abcdef0123456789abcdef"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.configure(api_key=KEY, strange_key="kept")
    found.send()
    return found


def tree(base: Path) -> dict[str, tuple[int, bytes]]:
    """Every file under `base` with mode and content."""
    return {
        str(path.relative_to(base)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(base.rglob("*"))
    }


def watch(desk: Desk, *words: str, env: dict[str, str] | None = None) -> Typed:
    done = type_in(desk.workdir, "watch", "--once", "--no-interactive", *words, env=env)
    assert KEY not in done.out + done.err
    return done


def refused(desk: Desk, *words: str, env: dict[str, str] | None = None) -> str:
    """What `watch` says on its way out; the mail still waits and no file has changed."""
    before = tree(desk.base)
    done = watch(desk, *words, env=env)
    assert done.status == 78, done
    assert done.err.startswith("error: ")
    assert tree(desk.base) == before
    return done.err


def settles(desk: Desk, *words: str, env: dict[str, str] | None = None) -> None:
    done = watch(desk, *words, env=env)
    assert done.status == 0, done
    assert len((desk.state / "processed.txt").read_text().splitlines()) == 1
    assert KEY not in "".join(p.read_text("utf-8", "replace") for p in desk.state.glob("log.jsonl*"))


def write(desk: Desk, content: bytes | str) -> None:
    path = desk.state / "config.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("address", 5),
        ("api_key", 12345),
        ("runtime", "vim"),
        ("permission_mode", "yolo"),
        ("command", "claude -p"),
        ("max_retries", -1),
        ("max_parallel_turns", 0),
        ("turn_timeout", True),
        ("turn_timeout", 1.5),
        ("turn_timeout", "60"),
        ("retry", {"frist": 1}),
        ("env", {"pass": "PATH"}),
    ],
)
def test_a_wrong_value_names_file_and_key_and_once_mended_the_mail_settles(desk: Desk, key: str, value: Any) -> None:
    good = dict(desk.settings)
    desk.configure(**{key: value})
    words = refused(desk)
    where = re.escape(str(desk.state / "config.toml"))
    assert re.search(rf"{where}, line \d+: {key}[.:]", words), words
    assert "fix: agent-mailer config" in words
    write(desk, tomlkit.dumps(good))
    settles(desk)


@pytest.mark.parametrize(
    "content",
    [
        f"api_key = '{KEY}",
        f"api_key = {KEY}\n",
        f"api_key = '{KEY}'\n".encode() + b"\xff\xfe = 1",
        b"\0" * 200,
        b"a=" + b"[" * 99999,
    ],
)
def test_what_is_no_toml_names_the_file(desk: Desk, content: bytes | str) -> None:
    write(desk, content)
    words = refused(desk)
    assert f"{desk.state / 'config.toml'} is not valid TOML" in words
    assert "fix: agent-mailer config edit" in words


def test_a_file_others_may_read_names_the_chmod_that_mends_it(desk: Desk) -> None:
    path = desk.state / "config.toml"
    path.chmod(0o644)
    words = refused(desk)
    assert f"{path} can be read by others (mode 0644" in words
    [mend] = [line.split("fix: ")[1] for line in words.splitlines() if "fix: " in line]
    assert mend == f"chmod 600 {path}"
    os.chmod(path, int(mend.split()[1], 8))
    settles(desk)


def test_a_folder_others_may_enter_names_the_chmod_that_mends_it(desk: Desk) -> None:
    desk.state.chmod(0o755)
    words = refused(desk)
    assert f"{desk.state} can be read by others (mode 0755" in words
    assert f"fix: chmod 700 {desk.state}\n" in words
    desk.state.chmod(0o700)
    settles(desk)


def test_every_missing_key_is_named_with_its_flag(desk: Desk) -> None:
    write(desk, f"api_key = '{KEY}'\nmaildir_root = '{desk.root}'\npermission_mode = ''\nruntime = 'command'\n")
    words = refused(desk)
    for key, flag in (("address", "--address"), ("command", "--command"), ("permission_mode", "--permission-mode")):
        assert f"{key} ({flag}" in words
    assert "runtime (" not in words
    write(desk, f"maildir_root = '{desk.root}'\n")
    assert "runtime (--runtime: claude, codex, command, infiniti or acp)" in refused(desk)
    settles(
        desk,
        *("--address", "coder", "--permission-mode", "plan", "--runtime", "command", "--command", "/bin/cat"),
    )


def test_a_folder_that_was_never_set_up_stays_untouched(tmp_path: Path) -> None:
    done = type_in(tmp_path, "watch", "--no-interactive")
    assert done.status == 78, done
    assert "address (--address)" in done.err
    assert "fix: agent-mailer init" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_that_is_not_there(tmp_path: Path) -> None:
    done = type_in(tmp_path, "watch", "--no-interactive", "--workdir", tmp_path / "gone")
    assert done.status == 78, done
    assert "is not a folder" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("watch", "--no-interactive"), ("status",), ("mail", "inbox")])
def test_a_name_reaches_no_terminal_as_it_is_and_a_shell_as_one_word(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = type_in(tmp_path, *words, "-C", tmp_path / "my \x1b[31mred\nfolder")
    assert done.status == 78, done
    assert "\x1b" not in done.err
    fix = done.err.partition("fix: ")[2].strip()
    assert fix == f"mkdir -p $'{tmp_path}/my \\x1b[31mred\\x0afolder'"
    subprocess.run(["bash", "-c", fix], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["my \x1b[31mred\nfolder"]


def test_a_file_is_no_folder_and_none_is_made_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "my file").touch()
    done = type_in(tmp_path, "status", "-C", tmp_path / "my file")
    assert (done.status, f"fix: ls -ld '{tmp_path}/my file'" in done.err) == (78, True), done


def test_a_file_in_the_state_folders_place(desk: Desk) -> None:
    desk.state.rename(desk.workdir / "aside")
    desk.state.touch(mode=0o600)
    words = refused(desk, "--address", "coder", "--permission-mode", "plan", "--runtime", "command", "--command", "cat")
    assert f"{desk.state}/config.toml cannot be read: Not a directory" in words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MAX_RETRIES", "lots"),
        ("TURN_TIMEOUT", "0"),
        ("RUNTIME", "vim"),
        ("COMMAND", "'open"),
        ("PERMISSION_MODE", "x"),
    ],
)
def test_a_wrong_variable_is_named_and_unset_mends_it(desk: Desk, name: str, text: str) -> None:
    variable = f"AGENT_MAILER_{name}"
    words = refused(desk, env={variable: text})
    assert f"error: {variable}: " in words
    assert f"fix: unset {variable}\n" in words
    settles(desk)


def test_a_key_in_the_environment_is_shown_nowhere(desk: Desk) -> None:
    refused(desk, env={"AGENT_MAILER_API_KEY": KEY, "AGENT_MAILER_MAX_STARTS": "0"})
    desk.shell("cat >/dev/null; env; cat /proc/$PPID/environ | tr '\\0' '\\n'")
    settles(desk, env={"AGENT_MAILER_API_KEY": KEY})
    [answer] = desk.inbox()
    assert "AGENT_MAILER_TURN_ID=" in answer.body
    assert KEY not in answer.body


@pytest.mark.parametrize(
    ("line", "key"),
    [("Address: planner", "address"), ("- **Name**: planner", "agent_name"), ("agent_id: 7", "agent_id")],
)
def test_an_agent_file_that_names_another_agent(desk: Desk, line: str, key: str) -> None:
    desk.configure(agent_name="coder", agent_id="6")
    (desk.workdir / "AGENT.md").write_text(f"# Agent Identity\n\n{line}\n")
    words = refused(desk)
    assert f"{desk.workdir / 'AGENT.md'} says {key} " in words
    assert "--ignore-agent-md-mismatch" in words
    settles(desk, "--ignore-agent-md-mismatch")


@pytest.mark.parametrize("address", ["Coder", "../x", "a/b", "a b", "-a", "x\ny"])
def test_an_address_that_is_no_handle(desk: Desk, address: str) -> None:
    desk.configure(address=address)
    done = watch(desk)
    assert done.status == 78, done
    assert "is no handle" in done.err
    assert len(list((desk.root / "agents/coder/inbox/new").iterdir())) == 1
    assert {p.name for p in desk.base.iterdir()} == {"mail", "coder"}


@pytest.mark.parametrize(
    ("root", "said"),
    [("~nobody-of-that-name/mail", "is no path"), ("nowhere/at/all", "nowhere/at/all"), ("a\0b", "is no path")],
)
def test_a_mailbox_root_that_is_none(desk: Desk, root: str, said: str) -> None:
    desk.configure(maildir_root=root)
    done = watch(desk)
    assert done.status == 78, done
    assert said in done.err
    assert not (desk.workdir / "nowhere").exists()


@pytest.mark.parametrize(
    "changes", [{"runtime": "claude"}, {"runtime": "codex"}, {"mailbox": "amp", "broker_url": "http://[bad"}]
)
def test_what_cannot_be_run_is_said_in_words(desk: Desk, changes: dict[str, str]) -> None:
    """Whatever the reason here (no such program, no such broker): no traceback, no turn, the mail still waits."""
    desk.configure(**changes)
    done = watch(desk, env={"PATH": "/nonexistent"})
    assert done.status in (1, 69, 78), done
    assert len(desk.marks()) == 0
    assert not (desk.state / "processed.txt").exists()


def test_unknown_keys_are_kept_by_a_run(desk: Desk) -> None:
    before = (desk.state / "config.toml").read_bytes()
    settles(desk)
    assert (desk.state / "config.toml").read_bytes() == before


@pytest.mark.parametrize("what", ["fifo", "folder"])
def test_a_config_that_is_no_file_is_never_waited_for(desk: Desk, what: str) -> None:
    path = desk.state / "config.toml"
    path.unlink()
    if what == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir(mode=0o700)
    done = watch(desk)
    assert done.status == 78, done
    assert f"{path} cannot be read" in done.err


def test_a_template_that_is_unfit_is_told_of_and_stops_nothing(desk: Desk) -> None:
    folder = desk.state / "templates"
    folder.mkdir()
    (folder / "fresh.md").write_text("read $subject")
    settles(desk)
    [told] = [line for line in (desk.state / "log.jsonl").read_text().splitlines() if "template_invalid" in line]
    assert "unknown placeholder $subject" in told
