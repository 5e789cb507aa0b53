"""The fence around the real programs: which tools a turn has, whose words reach it, what of the project counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from tests.desk import until
from tests.e2e.claude_desk import DONE, ClaudeDesk, bash
from tests.e2e.codex_desk import CodexDesk
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.e2e.fake_openai import PLAIN_MODEL, Say, Shell, fake_openai
from tests.e2e.throwaway import is_nobody
from tests.sizes import LONG

from agent_mailer.config import Config
from agent_mailer.events import EventName
from agent_mailer.process import leash
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive, send
from agent_mailer.processes import HAS_PROC, command_line, listed_pids, read_stat

pytestmark = LONG


@pytest.fixture
def claude(tmp_path: Path) -> Iterator[ClaudeDesk]:
    with FakeAnthropic() as fake:
        yield ClaudeDesk(tmp_path, fake)


@pytest.fixture
def codex(tmp_path: Path) -> Iterator[CodexDesk]:
    with fake_openai() as fake:
        desk = CodexDesk(tmp_path, fake)
        desk.configure(model=PLAIN_MODEL)
        yield desk


SANDBOX = "--as-pid-1"
"""A word of the bwrap that codex starts."""
PLACEHOLDER = "DeferredToolPlaceholder"
"""A name that claude puts among the tools of a request; it can do nothing."""
CALLS: Mapping[str, Mapping[str, object]] = {
    "SendMessage": {"to": "x", "message": "x"},
    "ScheduleWakeup": {"delaySeconds": 60, "reason": "x", "prompt": "x"},
    "CronCreate": {"cron": "* * * * *", "prompt": "x"},
    "Workflow": {"script": "x"},
}


@pytest.mark.parametrize("mode", ["plan", "acceptEdits", "bypassPermissions"])
def test_claude_has_the_tools_that_were_named_when_it_starts_and_when_it_resumes(mode: str, claude: ClaudeDesk) -> None:
    if mode == "bypassPermissions" and not is_nobody():
        pytest.skip("we are root and cannot be anybody else: unshare --user does not work here")
    claude.configure(permission_mode=mode)
    for body in ("first", "second"):
        claude.send(body)
        claude.fake.says(*(Tool(name, given) for name, given in CALLS.items()), DONE)
        assert claude.run() == ["done"], claude.end()
        tools = {name for name in claude.fake.requests[-1].tools if not name.startswith("mcp__agent_mailer__")}
        assert tools - {PLACEHOLDER} == set(Config().tools)
        assert all("No such tool" in said for said in claude.fake.requests[-1].tool_results[-len(CALLS) :])
    assert len(claude.transcripts()) == 1, "the second turn resumed the first"


@pytest.mark.parametrize("chosen", ["", "accept"])
def test_what_another_session_says_does_not_reach_a_turn(chosen: str, claude: ClaudeDesk) -> None:
    """Unless a person chose so; without the choice it shows that the words are understood."""
    mark, go_on = claude.workdir / "started", claude.workdir / "go-on"
    (claude.workdir / "slow.sh").write_text(
        "echo $CLAUDE_CODE_MESSAGING_SOCKET > address; touch started\nuntil [ -e go-on ]; do sleep 0.1; done\n"
    )
    by_hand = ["--settings", json.dumps({"crossSessionInbound": chosen})] if chosen else []
    claude.configure(extra_args=["--allowedTools", "Bash(bash ./slow.sh)", *by_hand])
    claude.fake.says(bash("bash ./slow.sh"), DONE)
    claude.send()
    with claude.working(mark) as watcher:
        say_to((claude.workdir / "address").read_text().strip(), "MARZIPAN")
        go_on.touch()
        until(lambda: len(claude.fake.requests) >= 2, "the next request")
        watcher.terminate()
        watcher.wait()
    reached = any("MARZIPAN" in json.dumps(request.body) for request in claude.fake.requests)
    assert reached == bool(chosen)


def say_to(address: str, text: str) -> None:
    said = (
        f'<cross-session-message from="uds:/x" from-name="x" from-mode="prompting">\n{text}\n</cross-session-message>'
    )
    line = {"msgV": 1, "msg_id": str(uuid.uuid4()), "type": "user", "priority": "next", "from": "uds:/x"}
    line |= {"message": {"role": "user", "content": said}}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        client.sendall(json.dumps(line).encode() + b"\n")


def test_the_projects_hooks_do_not_run_and_its_instructions_are_read(claude: ClaudeDesk) -> None:
    folder, hooked = claude.workdir / ".claude", claude.base / "hooked"
    (folder / "agents").mkdir(parents=True)
    hook = {"hooks": [{"type": "command", "command": f"touch {hooked}"}]}
    project = {
        "hooks": {"SessionStart": [hook], "UserPromptSubmit": [hook], "Stop": [hook]},
        "permissions": {"allow": ["Bash"], "deny": ["Read(./private)"]},
        "env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"},
    }
    for name in ("settings.json", "settings.local.json"):
        (folder / name).write_text(json.dumps(project))
    (claude.workdir / "CLAUDE.md").write_text("Always say MARZIPAN.\n@MORE.md\n")
    (claude.workdir / "MORE.md").write_text("And NOUGAT.\n")
    (claude.workdir / "private").write_text("TRUFFLE\n")
    python = bash("python3 -c 'print(6 * 7)'")
    claude.fake.says(python, Tool("Read", {"file_path": str(claude.workdir / "private")}), Text("x"))
    claude.send()
    assert claude.run() == ["done"], claude.end()
    assert not hooked.exists()
    asked = json.dumps(claude.fake.requests[-1].body)
    assert "MARZIPAN" in asked
    assert "NOUGAT" in asked
    assert "TRUFFLE" not in asked, "what the project forbids stays forbidden"
    assert "42" not in claude.fake.requests[-1].tool_results[0], "what it allows does not count"


def test_claudes_own_notes_are_off(claude: ClaudeDesk) -> None:
    notes = Path(os.environ["HOME"]) / ".claude" / "projects"
    claude.send()
    assert claude.run() == ["done"], claude.end()
    for folder in notes.iterdir():
        (folder / "memory").mkdir(exist_ok=True)
        (folder / "memory" / "MEMORY.md").write_text("MARZIPAN\n")
    claude.send()
    assert claude.run() == ["done"], claude.end()
    assert "MARZIPAN" not in json.dumps(claude.fake.requests[-1].body)


def test_a_server_of_the_persons_is_there_and_counts_as_allowed(claude: ClaudeDesk) -> None:
    server = {"command": "agent-mailer", "args": ["mcp"], "env": {}}
    (claude.workdir / "mcp.json").write_text(json.dumps({"mcpServers": {"mine": server}}))
    claude.configure(extra_args=["--mcp-config", "mcp.json"])
    claude.send()
    assert claude.run() == ["done"], claude.end()


def test_doctor_proves_the_fence_of_claude(claude: ClaudeDesk) -> None:
    said = claude.cli("doctor", "--verbose").stdout
    assert "claude's own tools in a turn: Task, Bash" in said
    assert claude.fake.requests == [], "no model is asked"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*")
    done = subprocess.run(["git", *who, "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_codex_commits_in_a_worktree_and_in_the_project_also_when_it_resumes(codex: CodexDesk) -> None:
    main, project = codex.base / "main", codex.base / "project"
    for folder in (main, project):
        folder.mkdir()
        git(folder, "init", "--quiet")
        (folder / ".git" / "hooks").mkdir(exist_ok=True)
        git(folder, "config", "user.name", "agent")
        git(folder, "config", "user.email", "agent@localhost")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", "first")
    codex.state.rename(codex.base / "aside")
    codex.workdir.rmdir()
    git(main, "worktree", "add", "--quiet", str(codex.workdir))
    (codex.base / "aside").rename(codex.state)
    codex.configure(project_dir=str(project))
    for number in ("1", "2"):
        commit = f"echo {number} >> f && git add f && git commit --quiet -m turn-{number}"
        hook = f"cd {project} && echo x > .git/hooks/pre-commit"
        codex.fake.script(Shell(commit), Shell(f"cd {project} && {commit}"), Shell(hook), Say("done"))
        codex.send(f"turn {number}")
        assert codex.run() == ["done"], codex.detail()
    assert git(codex.workdir, "log", "--format=%s").split() == ["turn-2", "turn-1", "first"]
    assert git(project, "log", "--format=%s").split() == ["turn-2", "turn-1", "first"]
    assert not (project / ".git" / "hooks" / "pre-commit").exists()
    assert len(codex.rollouts()) == 1, "the second turn resumed the first"


def test_within_a_sandbox_of_ours_codexs_own_still_hides_the_login_and_commits() -> None:
    if not os.access("/var/lib", os.W_OK) or (shutil.which("bwrap") is None and not os.environ.get("CI")):
        pytest.skip("it takes bubblewrap, and a place that is not below /tmp")
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="agent-mailer-test-") as base, fake_openai() as fake:
        desk = CodexDesk(Path(base), fake)
        desk.configure(model=PLAIN_MODEL, sandbox={"kind": "bwrap"})
        (desk.home / "auth.json").write_text('{"word": "MARZIPAN"}')
        git(desk.workdir, "init", "--quiet")
        (desk.workdir / ".git" / "hooks").mkdir(exist_ok=True)
        git(desk.workdir, "config", "user.name", "agent")
        git(desk.workdir, "config", "user.email", "agent@localhost")
        commit = "echo x > f && git add f && git commit --quiet -m within"
        fake.script(Shell(f"cat {desk.home}/auth.json"), Shell(commit), Say("done"))
        desk.send()
        assert desk.run() == ["done"], desk.detail()
        assert "MARZIPAN" not in json.dumps(fake.asked)
        assert git(desk.workdir, "log", "--format=%s") == "within"


def test_nothing_of_codexs_sandbox_outlives_a_turn(codex: CodexDesk) -> None:
    (codex.workdir / "AGENTS.md").write_text("x\n")
    codex.fake.script(*(Shell(f"echo {n} > f{n}") for n in range(8)), Say("done"))
    codex.send()
    assert codex.run() == ["done"], codex.detail()
    if HAS_PROC:
        mark = os.fsencode(codex.base)
        left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path)]
        assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_doctor_proves_the_profile_of_codex(codex: CodexDesk) -> None:
    (codex.home / "auth.json").write_text("{}")
    assert "codex's sandbox keeps login, configuration and state from the agent" in codex.cli("doctor", "--verbose")
    codex.configure(extra_args=[*codex.fake.provider(), "-s", "workspace-write"])
    assert "without a profile: extra_args choose a sandbox" in codex.cli("doctor", "--verbose")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_of_codexs_sandbox_outlives_a_watcher_that_tries_it(number: int, codex: CodexDesk) -> None:
    tried: list[ProcessIdentity] = []

    def seen(turns: int) -> bool:
        """It takes some hundredths of a second; then the turn begins, which has a sandbox of its own."""
        tried[:] = _tried(codex.base)
        return bool(tried) or len(codex.log(EventName.TURN_STARTED)) > turns

    while not tried:
        codex.send("x")
        before = len(codex.log(EventName.TURN_STARTED))
        watcher = codex.start_watch()
        try:
            until(partial(seen, before), "codex starts its sandbox")
            for process in tried:
                # It hangs.
                send(process, signal.SIGSTOP)
            watcher.send_signal(number)
            until(lambda: not any(map(is_alive, tried)), "it ends with the watcher")
        finally:
            watcher.kill()
            watcher.wait()
            codex.end_turns()
    # What was begun while we looked is not among those; whoever ends its parent ends it next.
    until(lambda: not _of(codex.base, SANDBOX), "nothing of it is left")


def _tried(base: Path) -> list[ProcessIdentity]:
    """Codex's sandbox as it is tried: that of a turn is below the turn's holder, and outlives the watcher."""
    return [one for one in _of(base, SANDBOX) if any(leash.__file__ in command_line(pid) for pid in _above(one.pid))]


def _above(pid: int) -> Iterator[int]:
    while (stat := read_stat(pid)) is not None and stat.parent > 1:
        pid = stat.parent
        yield pid


def _of(base: Path, word: str) -> list[ProcessIdentity]:
    """Processes with that word, started below `base`."""
    found = [pid for pid in listed_pids() if word in command_line(pid) and str(base) in " ".join(command_line(pid))]
    return [process for pid in found if (process := identify(pid)) is not None and is_alive(process)]
