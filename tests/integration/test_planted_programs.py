"""Files that an agent plants where we start programs: none of them is run by us, whatever it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.desk import Desk, outcomes
from tests.typed import Terminal, type_in

from agent_mailer.checks.git import check_git, taken_back, tracked
from agent_mailer.cli.terminal.questions import FALLBACKS, edited
from agent_mailer.config import GitCare
from agent_mailer.git_tree import keep_out
from agent_mailer.turn_tools.folder import TurnFolder


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def plant(desk: Desk, path: Path, *, python: bool = False) -> None:
    """A program, or a module, that tells of itself."""
    told = desk.base / "ran"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"open({str(told)!r}, 'a').write({path.name!r} + ' ')\n"
        if python
        else f"#!/bin/sh\nprintf '%s ' {path.name} >>{told}\nexit 1\n"
    )
    path.chmod(0o755)


def ran(desk: Desk) -> list[str]:
    told = desk.base / "ran"
    return told.read_text().split() if told.exists() else []


MODULES = ("types.py", "secrets.py", "site.py", "sitecustomize.py", "usercustomize.py", "msgspec.py", "agent_mailer.py")


def test_the_mail_tools_import_nothing_of_the_workdir(desk: Desk) -> None:
    """Neither from the folder where they start nor from one that the environment names."""
    for name in MODULES:
        plant(desk, desk.workdir / name, python=True)
    site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    plant(desk, desk.workdir / ".local" / site / "usercustomize.py", python=True)
    desk.shell("cat >/dev/null; agent-mailer mail reply --body yes")
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    turn = next((desk.state / "turns").iterdir())
    argv, env = TurnFolder(turn, desk.disk).server(desk.workdir)
    own = {"HOME": str(desk.workdir), "PYTHONPATH": ".", "PYTHONSTARTUP": "types.py", "PATH": os.defpath}
    hello = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    done = subprocess.run(argv, input=hello, cwd=desk.workdir, env={**own, **env}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b'"id":1' in done.stdout
    assert ran(desk) == []


@pytest.mark.long
def test_doctor_tries_the_tools_where_a_turn_has_them(desk: Desk) -> None:
    for name in MODULES:
        plant(desk, desk.workdir / name, python=True)
    checks = {row["name"]: row for row in type_in(desk.workdir, "doctor", "--json").json["checks"]}
    assert checks["mail_tools"]["result"] == checks["mail_commands"]["result"] == "ok"
    assert ran(desk) == []


def test_no_program_of_the_workdir_is_taken_for_the_agents_or_the_operators(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person's PATH names there is his own habit; a watcher would run it without any sandbox."""
    project = desk.base / "project"
    for name in ("sh", "cat", "git", "tell", "claude", "systemd-run", "agent-mailer"):
        plant(desk, desk.workdir / "bin" / name)
        plant(desk, project / "bin" / name)
    monkeypatch.chdir(desk.workdir)
    monkeypatch.setenv("PATH", f"bin:.::{project}/bin:{desk.workdir}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("BASH_ENV", "bin/tell")
    out = desk.base / "notice"
    desk.configure(
        command=["sh", "-c", "cat >/dev/null; agent-mailer mail finish --blocked why"],
        turn_memory="800M",
        project_dir=str(project),
        notify={"command": ["sh", "-c", f'cat >/dev/null; echo "$PATH" >{out}']},
    )
    desk.send()
    assert outcomes(desk.once()) == ["blocked"]
    assert ran(desk) == []
    assert not [place for place in out.read_text().strip().split(":") if not place.startswith("/")]
    assert not [folder for folder in (desk.workdir, project) if str(folder) in out.read_text()]


@pytest.mark.parametrize("named", ["", "vi", "nano -w"])
def test_no_program_of_the_workdir_is_a_persons_editor(desk: Desk, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """Whatever folder the person's PATH has first: it would run as the person, outside of any sandbox."""
    tools = desk.base / "tools"
    tools.mkdir()
    for name in FALLBACKS:
        plant(desk, desk.workdir / "bin" / name)
        (tools / name).write_text('#!/bin/sh\nfor last; do :; done; echo mine >>"$last"\n')
        (tools / name).chmod(0o755)
    (desk.base / "link").symlink_to(desk.workdir / "bin")
    monkeypatch.setenv("PATH", f"{desk.workdir}/bin:{desk.base}/link:{tools}")
    monkeypatch.setenv("EDITOR", named)
    monkeypatch.delenv("VISUAL", raising=False)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(sys, stream, Terminal())
    copy = desk.state / "note-1.edit.md"
    copy.write_text("")
    assert edited(copy, desk.state / "memory" / "global.md", b"", desk.disk) == b"mine\n"
    assert ran(desk) == []


def test_what_the_configuration_names_there_is_started(desk: Desk) -> None:
    """By its path, or in a PATH of its own: that is the operator's word."""
    plant(desk, desk.workdir / "bin" / "mine")
    for command, env in ((["./bin/mine"], {}), (["mine"], {"set": {"PATH": f"{desk.workdir}/bin:{os.defpath}"}})):
        desk.configure(command=command, env=env, max_retries=0)
        desk.send()
        assert outcomes(desk.once()) == ["failed"]
    assert ran(desk) == ["mine", "mine"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_who_asks_git_asks_none_that_lies_in_the_tree(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not where a person's PATH names its folder, and the system's is asked in its place."""
    git = ["git", "-C", str(desk.workdir)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--force", str(desk.state / "config.toml")], check=True)
    (desk.workdir / ".gitignore").write_text("!.agent-mailer/\n")
    plant(desk, desk.workdir / "bin" / "git")
    (desk.base / "link").symlink_to(desk.workdir / "bin")
    monkeypatch.setenv("PATH", f"{desk.workdir}/bin:{desk.base}/link:{os.environ['PATH']}")
    keep_out(desk.disk, desk.state)
    found = [tracked(desk.state), taken_back(desk.state), *check_git(desk.workdir, [desk.state], GitCare.KEEP_OUT)]
    assert ["tracks 1 of its files" in one.text for one in found if one is not None] == [True, False, True]
    assert ran(desk) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    "setting", ["core.fsmonitor", "core.pager", "core.sshCommand", "diff.external", "alias.ls-files"]
)
def test_the_repository_runs_nothing_when_doctor_asks_git(desk: Desk, setting: str) -> None:
    plant(desk, desk.workdir / "planted")
    for name in ("post-index-change", "post-checkout", "reference-transaction"):
        plant(desk, desk.workdir / ".git" / "hooks" / name)
    git = ["git", "-C", str(desk.workdir)]
    subprocess.run([*git, "init", "--quiet", "--template="], check=True)
    subprocess.run([*git, "config", setting, str(desk.workdir / "planted")], check=True)
    assert [row.result.value for row in check_git(desk.workdir, [desk.state], GitCare.KEEP_OUT)] == ["warning"]
    assert ran(desk) == []
