"""The real agent programs within each kind of sandbox: they work, and what they are talked into reaches nothing."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.e2e.claude_desk import READ, ClaudeDesk, bash, reply
from tests.e2e.codex_desk import CodexDesk
from tests.e2e.fake_anthropic import FakeAnthropic, Text
from tests.e2e.fake_openai import Mail, Say, Shell, fake_openai
from tests.integration.test_confined import runs_here
from tests.sizes import LONG

pytestmark = LONG
KINDS = ["bwrap", "landlock", "srt"]


@pytest.fixture(autouse=True)
def chosen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    monkeypatch.setenv("PATH", os.environ["PATH"])


@pytest.fixture(params=KINDS)
def sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """As the table of that name. With srt the model is reached by its proxy, and root does not look like another."""
    kind = runs_here(request.param)
    if kind != "srt":
        return {"kind": kind}
    for desk in ("claude_desk", "codex_desk"):
        monkeypatch.setattr(f"tests.e2e.{desk}.as_throwaway", list)
    return {"kind": kind, "network": "model"}


TRY = """
t() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name open"; else echo "$name shut"; fi; }
t ssh grep -q . "$HOME/.ssh/id"
t config grep -q . "$AGENT_MAILER_WORKDIR/.agent-mailer/config.toml"
t forge touch "$AGENT_MAILER_WORKDIR/.agent-mailer/turns/x"
t record sh -c 'echo >>"$AGENT_MAILER_TURN_DIR/turn.json"'
t mail sh -c 'cat {mail}/agents/*/inbox/*/* | grep -q .'
t home touch "$HOME/x"
t settings sh -c 'echo >>{settings}'
t temporary touch "$TMPDIR/x"
t project touch {project}/made
t watcher kill -0 {pid}
for name in {executed}; do (echo evil >>"$name") 2>/dev/null; done
"""


def _told(project: Path) -> dict[str, str]:
    return dict(line.split() for line in (project / "told").read_text().splitlines())


def _doors(desk: ClaudeDesk | CodexDesk, settings: Path) -> Path:
    """A script of the project that tries every door, and tells what it found."""
    ssh = Path(os.environ["HOME"]) / ".ssh"
    ssh.mkdir(exist_ok=True)
    (ssh / "id").write_text("a key\n")
    project = desk.base / "project"
    project.mkdir()
    for executed in _executed(settings.parent):
        executed.parent.mkdir(parents=True, exist_ok=True)
        executed.write_text("theirs\n")
    script = (
        TRY.replace("{mail}", str(desk.root)).replace("{settings}", str(settings)).replace("{pid}", str(os.getpid()))
    )
    script = script.replace("{executed}", " ".join(map(str, _executed(settings.parent))))
    (project / "doors.sh").write_text(script.replace("{project}", str(project)))
    desk.configure(project_dir=str(project))
    return project


def _executed(home: Path) -> list[Path]:
    """What a person's own sessions run, or have their shell read: by any of it a turn would leave its sandbox."""
    claude = ("shell-snapshots/snapshot-theirs.sh", "session-env/theirs/hook.sh", "local/claude", "chrome/native-host")
    codex = ("tmp/arg0/theirs", "shell_snapshots/theirs.sh", "packages/codex", "bin/codex")
    return [home / name for name in (claude if home.name == ".claude" else codex)]


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Path]:
    """Not below /tmp: codex makes no helpers in a home that lies there, and needs them for its own sandbox."""
    if not os.access("/var/lib", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="agent-mailer-test-") as folder:
        yield Path(folder)


SHUT = {"ssh", "config", "forge", "record", "mail", "watcher"}


def _nothing_reached(desk: Desk, told: dict[str, str]) -> None:
    """What lies in /tmp, as a test's home does, may seem to take a file under bubblewrap: it is in the turn's own.

    With srt so may whatever is hidden.
    """
    kind = desk.settings["sandbox"]["kind"]
    seeming = {"settings", "home", *(("forge",) if kind == "srt" else ())}
    assert {name for name, how in told.items() if how == "shut"} - seeming == SHUT - seeming, told
    assert not (Path(os.environ["HOME"]) / "x").exists()
    assert not (desk.state / "turns" / "x").exists()
    if kind != "landlock":
        assert told["settings"] == "shut"
        home = Path(os.environ["HOME"]) / ".claude" if isinstance(desk, ClaudeDesk) else desk.base / "codex-home"
        assert {path.read_text() for path in _executed(home)} == {"theirs\n"}


def test_claude_works_within_and_reaches_nothing_beyond(tmp_path: Path, sandbox: dict[str, str]) -> None:
    _claude_works_within(tmp_path, sandbox)


@pytest.mark.parametrize("sandbox", ["bwrap", "landlock"], indirect=True)
def test_so_does_claude_of_root(tmp_path: Path, sandbox: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("this user is not root")
    monkeypatch.setattr("tests.e2e.claude_desk.as_throwaway", list)
    _claude_works_within(tmp_path, sandbox)


def _claude_works_within(tmp_path: Path, sandbox: dict[str, str]) -> None:
    with FakeAnthropic() as fake:
        desk = ClaudeDesk(tmp_path, fake)
        settings = Path(os.environ["HOME"]) / ".claude" / "settings.json"
        project = _doors(desk, settings)
        desk.configure(sandbox=sandbox, extra_args=["--allowedTools", "Bash(bash *)"])
        desk.send("the secret word is MARZIPAN")
        script = f"bash {project}/doors.sh >{project}/told 2>&1"
        (project / "run.sh").write_text(script)
        fake.says(READ, bash(f"bash {project}/run.sh"), reply("It is marzipan."), Text("I answered."))
        assert desk.run() == ["done"], (desk.end(), _stderr(desk))
        assert [answer.body for answer in desk.inbox()] == ["It is marzipan.\n"]
        _nothing_reached(desk, _told(project))
        desk.send("and again")
        fake.says(Text("in the same session"))
        before = desk.session()
        assert desk.run() == ["done"], (desk.end(), _stderr(desk))
        assert desk.session() == before
        assert not list((desk.state / "turns").glob("*/tmp"))


def _stderr(desk: ClaudeDesk | CodexDesk) -> str:
    newest = max((desk.state / "turns").iterdir(), key=lambda folder: folder.name)
    return (newest / "stderr").read_text() + (newest / "stdout").read_text()[-3000:]


def test_codex_works_within_and_reaches_nothing_beyond(apart: Path, sandbox: dict[str, str]) -> None:
    with fake_openai() as fake:
        desk = CodexDesk(apart, fake)
        project = _doors(desk, desk.home / "config.toml")
        desk.configure(sandbox=sandbox)
        desk.send("what is seven times six?")
        fake.script(Mail("read_message"), Shell(f"bash {project}/doors.sh >{project}/told 2>&1"), *_answer("forty-two"))
        assert desk.run() == ["done"], (desk.detail(), _stderr(desk))
        assert [answer.body.strip() for answer in desk.inbox()] == ["forty-two"]
        _nothing_reached(desk, _told(project))
        desk.send("and again")
        before = desk.session()
        words = f"{sys.executable} -m agent_mailer.cli.app mail reply --body 'by the shell'"
        fake.script(Shell(words), Say("finished"))
        assert desk.run() == ["done"], (desk.detail(), _stderr(desk))
        assert desk.session() == before
        assert [answer.body.strip() for answer in desk.inbox()] == ["forty-two", "by the shell"]


def _answer(body: str) -> tuple[Mail, Say]:
    return Mail("reply", {"body": body}), Say("finished")


@pytest.mark.parametrize("sandbox", ["bwrap", "landlock"], indirect=True)
def test_codex_of_root_does_without_its_own_sandbox(
    apart: Path, sandbox: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root without privileges cannot be root of another user namespace."""
    if os.geteuid() != 0:
        pytest.skip("this user is not root")
    monkeypatch.setattr("tests.e2e.codex_desk.as_throwaway", list)
    with fake_openai() as fake:
        desk = CodexDesk(apart, fake)
        project = _doors(desk, desk.home / "config.toml")
        desk.configure(sandbox=sandbox)
        desk.send("what is seven times six?")
        fake.script(Mail("read_message"), Shell(f"bash {project}/doors.sh >{project}/told 2>&1"), *_answer("forty-two"))
        assert desk.run() == ["done"], (desk.detail(), _stderr(desk))
        _nothing_reached(desk, _told(project))


def test_codex_in_plan_mode_writes_nothing_in_its_workdir(tmp_path: Path, sandbox: dict[str, str]) -> None:
    """Within Landlock its own sandbox cannot start: ours holds it to its mode."""
    with fake_openai() as fake:
        desk = CodexDesk(tmp_path, fake, "plan")
        desk.configure(sandbox=sandbox)
        desk.send("what is seven times six?")
        (desk.workdir / "notes").mkdir()
        fake.script(Mail("read_message"), Shell("echo x > notes/made; echo x > made"), *_answer("forty-two"))
        assert desk.run() == ["done"], (desk.detail(), _stderr(desk))
        assert not (desk.workdir / "made").exists()
        assert not (desk.workdir / "notes" / "made").exists()
