"""`verify` and `doctor`: each fault is named with what was looked at and what mends it, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from tests.desk import Desk, until
from tests.powers import no_powers
from tests.sizes import thinned
from tests.typed import Typed, type_in

from agent_mailer.checks.state import check_state_files
from agent_mailer.clock import iso
from agent_mailer.state.lock import holder_of

Break = Callable[[Desk], object]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An agent that has worked."""
    found = Desk(tmp_path)
    found.send()
    found.once()
    return found


def test_each_file_that_cannot_be_read_is_named_once_beside_those_that_can(desk: Desk) -> None:
    broken = ["sessions.json", "questions.json"]
    for name in (*broken, "retries.json"):
        (desk.state / name).write_text("{}" if name == "retries.json" else "{")
    told = [one for one in check_state_files(desk.place().state) if one.name == "state"]
    assert [Path(one.looked_at).name for one in told if one.fix] == broken
    assert "retries.json (0 waiting)" in told[0].text


def tree(base: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything under `base`: mode, moment of change, content."""
    return {
        str(path.relative_to(base)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted([base, *base.rglob("*")])
    }


def look(desk: Desk, command: str, **env: str) -> Typed:
    """Run a check, and see to it that it left everything as it was."""
    before = tree(desk.base)
    done = type_in(desk.workdir, command, "--json", env=env)
    assert tree(desk.base) == before
    assert done.err == ""
    for check in done.json["checks"]:
        assert check["looked_at"], check
        assert check["fix"] or check["result"] == "ok", check
    return done


def of(done: Typed, name: str) -> list[dict[str, Any]]:
    return [check for check in done.json["checks"] if check["name"] == name]


def faults(done: Typed, level: str = "failed") -> list[dict[str, Any]]:
    return [check for check in done.json["checks"] if check["result"] == level]


def test_a_whole_setup_passes_verify_check_by_check(desk: Desk) -> None:
    done = look(desk, "verify")
    assert done.status == 0, done
    assert set(done.json) == {"workdir", "ok", "exit_code", "checks"}
    assert (done.json["ok"], done.json["exit_code"], done.json["workdir"]) == (True, 0, str(desk.workdir))
    for check in done.json["checks"]:
        assert list(check) == ["name", "looked_at", "result", "text", "fix", "exit_code"]
        assert (check["result"], check["fix"], check["exit_code"]) == ("ok", "", 0)
        assert check["looked_at"]
        assert check["text"]
    names = [check["name"] for check in done.json["checks"]]
    assert names == ["folder", "trust", "config", "identity", "mailbox", "consumer", "mail_clock", "runtime"]


def test_people_get_a_line_a_check_and_one_that_mends(desk: Desk) -> None:
    desk.configure(command=["no-such-agent"])
    done = type_in(desk.workdir, "verify")
    assert done.status == 69
    lines = done.out.splitlines()
    assert lines[0].split()[:2] == ["ok", "folder"]
    [failure] = [index for index, line in enumerate(lines) if line.startswith("failed")]
    assert "no-such-agent is not in PATH" in lines[failure]
    assert lines[failure + 1].strip().startswith("fix: install no-such-agent")
    assert lines[-1] == "1 failed"


def drop(key: str) -> Break:
    def without(desk: Desk) -> None:
        desk.settings.pop(key)
        desk.configure()

    return without


def put(name: str, content: str) -> Break:
    def write(desk: Desk) -> None:
        path = desk.workdir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)

    return write


def agent_file(mode: int) -> Break:
    def make(desk: Desk) -> None:
        program = desk.workdir / "agent"
        program.write_text("#!/bin/sh\n")
        program.chmod(mode)
        desk.configure(command=["./agent"])

    return make


def agent_folder(desk: Desk) -> None:
    (desk.workdir / "agent").mkdir()
    desk.configure(command=["./agent"])


def told_the_key(desk: Desk) -> None:
    desk.configure(api_key="amk_secret")
    put("AGENT.md", "Key: amk_secret\n")(desk)


VERIFY: dict[str, tuple[Break, int, str, str, str]] = {
    "no folder": (lambda d: shutil.rmtree(d.state), 78, "folder", "does not exist", "agent-mailer init"),
    "open folder": (lambda d: d.state.chmod(0o755), 78, "folder", "read by others", "chmod 700"),
    "open config": (lambda d: (d.state / "config.toml").chmod(0o644), 78, "folder", "read by others", "chmod 600"),
    "newer format": (put(".agent-mailer/format", "99\n"), 78, "folder", "newer agent-mailer", "install the newer"),
    "no mode": (drop("permission_mode"), 78, "config", "permission_mode", "--permission-mode"),
    "no runtime": (drop("runtime"), 78, "config", "runtime", "config set runtime"),
    "bad value": (lambda d: d.configure(max_retries="many"), 78, "config", "max_retries", "config set max_retries"),
    "no TOML": (put(".agent-mailer/config.toml", "address = "), 78, "config", "not valid TOML", "config edit"),
    "identity": (put("AGENT.md", "- **Address**: planner\n"), 78, "identity", "'planner'", "config set address"),
    "no root": (lambda d: d.configure(maildir_root="nowhere"), 78, "mailbox", "no mailbox root", "init --maildir-root"),
    "no mailbox": (
        lambda d: d.configure(address="tester"),
        78,
        "mailbox",
        "no mailbox for 'tester'",
        "agent-mailer init",
    ),
    "bad handle": (lambda d: d.configure(address="No Handle"), 78, "mailbox", "no handle", "config set address"),
    "open inbox": (
        lambda d: (d.root / "agents/coder/inbox/new").chmod(0o755),
        78,
        "mailbox",
        "mode 0755, not 0700",
        "agent-mailer init",
    ),
    "lost folder": (
        lambda d: (d.root / "agents/coder/dlq/new").rmdir(),
        78,
        "mailbox",
        "dlq/new is missing",
        "agent-mailer init",
    ),
    "broker": (lambda d: d.configure(mailbox="amp"), 78, "config", "broker_url", "--broker-url URL"),
    "missing agent": (lambda d: d.configure(command=["./gone"]), 69, "runtime", "does not exist", "config set command"),
    "agent is a folder": (agent_folder, 69, "runtime", "is a directory", "config set command"),
    "agent not executable": (agent_file(0o644), 69, "runtime", "not executable", "chmod +x"),
    "bad variable": (
        lambda d: d.configure(env={"pass": ["NOT A NAME"]}),
        78,
        "runtime",
        "NOT A NAME",
        "agent-mailer config edit",
    ),
}


@pytest.mark.parametrize("fault", thinned(VERIFY))
def test_verify_names_each_fault_and_what_mends_it(desk: Desk, fault: str) -> None:
    breaks, status, name, text, fix = VERIFY[fault]
    breaks(desk)
    done = look(desk, "verify")
    assert (done.status, done.json["exit_code"], done.json["ok"]) == (status, status, False), done.out
    first = faults(done)[0]
    assert (first["name"], first["exit_code"]) == (name, status)
    assert text in first["text"]
    assert fix in first["fix"]
    assert first["looked_at"]


def test_the_first_failure_decides_the_exit_status(desk: Desk) -> None:
    desk.configure(command=["no-such-agent"])
    assert look(desk, "verify").status == 69
    put("AGENT.md", "- **Address**: planner\n")(desk)
    done = look(desk, "verify")
    assert [check["exit_code"] for check in faults(done)] == [78, 69]
    assert done.status == 78


def test_what_the_mend_of_a_mailbox_says_mends_it(desk: Desk) -> None:
    (desk.root / "agents/coder/inbox/cur").chmod(0o755)
    [check] = faults(look(desk, "verify"))
    words = check["fix"].split()
    assert words[0] == "agent-mailer"
    assert type_in(desk.workdir, *words[1:]).status == 0
    assert look(desk, "verify").status == 0


def test_a_watcher_is_known_as_ours_and_as_a_strangers(desk: Desk) -> None:
    other = desk.base / "other"
    (other / ".agent-mailer").mkdir(parents=True, mode=0o700)
    path = other / ".agent-mailer" / "config.toml"
    path.write_text(tomlkit.dumps(desk.settings))
    path.chmod(0o600)
    with desk.watching() as process:
        lock = desk.root / "agents/coder/extensions/agent-mailer/watcher.pid"
        until(lambda: lock.exists() and lock.read_text().strip() == str(process.pid), "the watcher holds the mailbox")
        until(lambda: holder_of(desk.state / ".lock"), "the watcher holds the workdir")
        ours = look(desk, "doctor")
        assert (ours.status, faults(ours)) == (0, []), ours.out
        assert f"process {process.pid}" in of(ours, "consumer")[0]["text"]
        assert f"process {process.pid}" in of(ours, "lock")[0]["text"]
        strange = type_in(other, "verify", "--json")
        assert strange.status == 78
        [check] = faults(strange)
        assert check["name"] == "consumer"
        assert f"another watcher, process {process.pid}" in check["text"]
        assert "config set address" in check["fix"]
        assert process.poll() is None


def test_doctor_looks_at_everything_and_passes(desk: Desk) -> None:
    (desk.workdir / "AGENT.md").write_text("- **Name**: coder\n- **Address**: coder\n")
    done = look(desk, "doctor")
    assert done.status == 0, done.out
    names = [check["name"] for check in done.json["checks"]]
    for name in ("folder", "trust", "config", "identity", "mailbox", "consumer", "runtime", "permissions", "format"):
        assert name in names
    for name in (
        "clock",
        "pause",
        "lock",
        "disk",
        "limits",
        "file_events",
        "templates",
        "agent_md",
        "git",
        "environment",
    ):
        assert name in names
    assert "found by environment" in of(done, "turn_end")[0]["text"]
    assert "processed.txt (1 ids)" in of(done, "state")[0]["text"]
    assert of(done, "mail_commands")[0]["result"] == "ok"
    [tools] = of(done, "mail_tools")
    assert tools["result"] == "ok"
    assert "read_message" in tools["text"]


def lost_session(desk: Desk) -> None:
    """claude has removed what a thread was to go on in, or works for another user now."""
    (desk.workdir / "claude").write_text("#!/bin/sh\necho '2.1.300 (Claude Code)'\n")
    (desk.workdir / "claude").chmod(0o755)
    desk.configure(runtime="claude", claude_command="./claude")
    entry = {"session_id": "s1", "runtime": "claude", "turn_count": 1, "last_used_at": iso(time.time())}
    put(".agent-mailer/sessions.json", json.dumps({"greet": entry}))(desk)


DOCTOR: dict[str, tuple[Break, str, str, str, str]] = {
    "sessions": (put(".agent-mailer/sessions.json", '{"t'), "failed", "state", "sessions.json", "agent-mailer watch"),
    "retries": (put(".agent-mailer/retries.json", "[]"), "failed", "state", "retries.json", "agent-mailer watch"),
    "usage": (put(".agent-mailer/usage.json", "\0\0"), "failed", "state", "usage.json", "agent-mailer watch"),
    "index": (put(".agent-mailer/inflight.json", "{"), "failed", "state", "inflight.json", "agent-mailer watch"),
    "pause": (put(".agent-mailer/pause.json", "nonsense"), "failed", "state", "pause.json", "agent-mailer watch"),
    "dead letters": (
        put(".agent-mailer/dead_letter.jsonl", '{"msg_id": "a"}\nnonsense\n'),
        "failed",
        "state",
        "1 of its lines",
        "agent-mailer watch",
    ),
    "a folder for a file": (
        lambda d: (d.state / "dead_letter.jsonl").mkdir(),
        "failed",
        "state",
        "not a file",
        "agent-mailer watch",
    ),
    "turn record": (
        put(".agent-mailer/turns/20260101T000000-0123abcd/turn.json", "{"),
        "failed",
        "state",
        "open turn",
        "agent-mailer watch",
    ),
    "set aside": (put(".agent-mailer/usage.json.corrupt-2026", "{"), "warning", "state", "corrupt-2026", "rm "),
    "format": (put(".agent-mailer/format", "one"), "warning", "format", "'one'", "agent-mailer watch"),
    "open state": (
        lambda d: (d.state / "processed.txt").chmod(0o644),
        "warning",
        "permissions",
        "mode 0644",
        "chmod go-rwx",
    ),
    "future": (
        lambda d: os.utime(d.state / "processed.txt", (time.time() + 86400,) * 2),
        "warning",
        "clock",
        "processed.txt says",
        "timedatectl",
    ),
    "paused": (
        put(".agent-mailer/pause.json", json.dumps({"reason": "by_hand", "since": 1.0})),
        "warning",
        "pause",
        "paused by hand",
        "agent-mailer resume",
    ),
    "template": (
        put(".agent-mailer/templates/fresh.md", "Do $everything"),
        "failed",
        "templates",
        "$everything",
        "$EDITOR",
    ),
    "template's name": (put(".agent-mailer/templates/frehs.md", "x"), "warning", "templates", "no template", "mv "),
    "key in AGENT.md": (
        told_the_key,
        "warning",
        "agent_md",
        "broker's key",
        "$EDITOR",
    ),
    "mail of tomorrow": (
        lambda d: os.utime(d.root / "agents" / "coder" / "inbox" / "new", (time.time() + 86400,) * 2),
        "warning",
        "mail_clock",
        "one of the clocks is wrong",
        "timedatectl",
    ),
    "lost session": (lost_session, "warning", "sessions", "thread greet", "sessions invalidate"),
    "misspelt key": (lambda d: d.configure(max_retrys=3), "warning", "config", "max_retrys", "config edit"),
    "absent variable": (
        lambda d: d.configure(env={"pass": ["MY_KEY"]}),
        "warning",
        "environment",
        "MY_KEY",
        "export MY_KEY",
    ),
}


@pytest.mark.parametrize("fault", thinned(DOCTOR, every=4))
def test_doctor_names_each_fault_and_what_mends_it(desk: Desk, fault: str) -> None:
    breaks, level, name, text, fix = DOCTOR[fault]
    breaks(desk)
    done = look(desk, "doctor")
    hits = [
        check for check in of(done, name) if check["result"] == level and text in check["looked_at"] + check["text"]
    ]
    assert hits, done.out
    assert fix in hits[0]["fix"]
    assert done.status == (1 if faults(done) else 0)
    assert "amk_secret" not in done.out


def test_doctor_in_a_folder_that_is_none_yet(tmp_path: Path) -> None:
    done = type_in(tmp_path, "doctor", "--json")
    assert done.status == 1
    assert [check["name"] for check in faults(done)] == ["folder", "config"]
    assert list(tmp_path.iterdir()) == []
    gone = type_in(tmp_path, "doctor", "--json", "--workdir", tmp_path / "nowhere")
    assert (gone.status, gone.json["error"]["code"]) == (78, "no_folder")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_must_neither_see_nor_hold_the_state(desk: Desk) -> None:
    git = ["git", "-C", str(desk.workdir), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run([*git, "init", "--quiet"], check=True)

    def said() -> dict[str, Any]:
        # The mail lies outside: in a tree of somebody else, maybe.
        [found] = [row for row in of(look(desk, "doctor"), "git") if row["looked_at"] == str(desk.state)]
        return found

    seen = said()
    assert seen["result"] == "warning"
    subprocess.run([*git, "add", "--force", ".agent-mailer/config.toml"], check=True)
    held = said()
    assert held["result"] == "failed"
    assert "rm -r --cached .agent-mailer" in held["fix"]
    subprocess.run(["/bin/sh", "-c", held["fix"]], check=True, stdout=subprocess.DEVNULL)
    assert seen["fix"] == "agent-mailer doctor --repair"
    assert type_in(desk.workdir, "doctor", "--repair").status == 0
    assert said()["result"] == "ok"


def test_the_tools_are_started_with_the_environment_of_an_agent(desk: Desk) -> None:
    wrong = desk.base / "wrong"
    wrong.mkdir()
    (wrong / "msgspec.py").write_text("raise SystemExit('broken by PYTHONPATH')\n")
    desk.configure(env={"set": {"PYTHONPATH": str(wrong), "PYTHONDONTWRITEBYTECODE": "1"}})
    done = look(desk, "doctor")
    assert done.status == 1
    [check] = of(done, "mail_commands")
    assert check["result"] == "failed"
    assert "broken by PYTHONPATH" in check["text"]
    # The server is isolated: it imports nothing that somebody else has chosen.
    assert of(done, "mail_tools")[0]["result"] == "ok"


def fake_claude(desk: Desk, version: str, login: int, tools: str = "Bash") -> None:
    init = json.dumps({"type": "system", "subtype": "init", "tools": tools.split()})
    path = desk.base / "claude"
    path.write_text(
        f"#!/bin/sh\ncase $1 in --version) echo '{version} (Claude Code)' ;;\n"
        f'auth) echo "{{\\"authMethod\\": \\"$SEEN\\"}}"; exit {login} ;; *) echo \'{init}\' ;; esac\n'
    )
    path.chmod(0o755)
    desk.configure(runtime="claude", claude_command=str(path), env={"set": {"SEEN": "as-an-agent"}})


def test_a_version_with_more_tools_is_met_before_the_watcher_meets_it(desk: Desk) -> None:
    fake_claude(desk, "2.9.0", 0, tools="Bash Read SendMessage ScheduleWakeup")
    [fault] = faults(look(desk, "doctor"))
    assert fault["name"] == "fence"
    assert "SendMessage, ScheduleWakeup" in fault["text"]
    assert "key tools" in fault["text"]
    desk.configure(tools=["Bash", "Read", "SendMessage", "ScheduleWakeup"])
    assert look(desk, "doctor").status == 0


def test_the_program_is_asked_for_its_version_and_login_as_an_agent(desk: Desk) -> None:
    fake_claude(desk, "2.1.300", 0)
    done = look(desk, "doctor")
    assert done.status == 0, done.out
    assert of(done, "version")[0]["text"] == "claude 2.1.300"
    assert "as-an-agent" in of(done, "login")[0]["text"]
    fake_claude(desk, "1.0.0", 1)
    done = look(desk, "doctor")
    assert [check["name"] for check in faults(done, "warning")] == ["version"]
    [login] = faults(done)
    assert (login["name"], login["exit_code"]) == ("login", 77)
    assert "claude auth login" in login["fix"]
    assert login["looked_at"].endswith("claude auth status")
    assert look(desk, "verify").status == 0


def test_a_state_file_that_may_not_be_read(desk: Desk) -> None:
    (desk.state / "processed.txt").chmod(0)
    with no_powers():
        done = type_in(desk.workdir, "doctor", "--json")
    assert any("processed.txt" in check["looked_at"] for check in faults(done))


def test_what_is_wrong_comes_first_and_what_is_well_is_one_line(desk: Desk) -> None:
    desk.configure(command=["no-such-program"])
    brief, whole = type_in(desk.workdir, "doctor"), type_in(desk.workdir, "doctor", "--verbose")
    lines = brief.out.splitlines()
    assert lines[0].startswith("failed   runtime")
    assert "fix:" in lines[1]
    [well] = [line for line in lines if line.startswith("ok ")]
    assert "folder, trust" in well
    assert sum(line.startswith("ok ") for line in whole.out.splitlines()) == int(well.split()[1]) > 10
    assert (brief.status, brief.out.splitlines()[-1]) == (whole.status, whole.out.splitlines()[-1])
