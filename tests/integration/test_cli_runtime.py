"""`agent-mailer runtime`: what is described, and a try of one with a model server of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import acp_agent
from tests.desk import PATIENCE, until
from tests.typed import COMMAND, type_in

from agent_mailer.checks import Level
from agent_mailer.checks.agent_bench import Bench
from agent_mailer.checks.workdir import check_templates
from agent_mailer.processes import command_line
from agent_mailer.runtimes.acp.descriptor import read
from agent_mailer.runtimes.acp.shelf import Known
from agent_mailer.runtimes.port import PermissionMode

DESCRIPTOR = """\
argv = [{argv}]
title = "Scripted"
version = ["--version"]
usage = "last"
silent_for = 2
[modes.plan]
allow_kinds = ["read"]
[modes.bypassPermissions]
allow_kinds = ["*"]
[named]
field = "announced.title"
mail = "agent_mailer_[a-z_]+"
[check.env]
MODEL_URL = "$URL"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With an agent that asks a model, called `mine`, described in the user's folder."""
    script = tmp_path / "script.json"
    prompt = [{"model": True}]
    able = {"loadSession": True}
    script.write_text(
        json.dumps(
            {
                "initialize": [{"answer": {"protocolVersion": 1, "agentCapabilities": able}}],
                "session/new": [{"answer": {"sessionId": acp_agent.SESSION}}],
                "session/load": [{"answer": {}}],
                "session/prompt": prompt,
            }
        )
    )
    program = tmp_path / "mine"
    program.write_text(
        f"""#!/bin/sh\n[ "$1" != --version ] || {{ echo mine 1.2.3; exit; }}\n"""
        f"""exec {sys.executable} {acp_agent.__file__} {script}\n"""
    )
    program.chmod(0o755)
    folder = tmp_path / "config" / "agent-mailer" / "agents"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(DESCRIPTOR.format(argv=json.dumps(str(program))))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_what_is_described_is_listed_with_what_is_missing(home: Path) -> None:
    listed = {one["name"]: one for one in type_in(home, "runtime", "list", "--json").json["agents"]}
    assert {"gemini", "kimi", "mine", "opencode", "qwen", "vibe"} <= set(listed)
    assert listed["mine"]["version"] == "Scripted 1.2.3"
    missing = type_in(home, "runtime", "show", "vibe", env={"PATH": "/nowhere"})
    assert "uv tool install mistral-vibe" in missing.out
    unknown = type_in(home, "runtime", "show", "nobody")
    assert (unknown.status, "runtime list" in unknown.err) == (78, True)


def test_one_bad_description_hides_no_other(home: Path) -> None:
    bad = home / "config" / "agent-mailer" / "agents" / "odd.toml"
    bad.write_text("argv = 3\n")
    listed = type_in(home, "runtime", "list")
    assert (listed.status, "Scripted 1.2.3" in listed.out, "odd" in listed.out) == (0, True, True)
    found = {one["name"]: one for one in type_in(home, "runtime", "list", "--json").json["agents"]}["odd"]
    assert (found["where"], "argv" in found["problem"], str(bad) in found["fix"]) == ("", True, True)
    shown = type_in(home, "runtime", "show", "odd")
    assert (shown.status, str(bad) in shown.err) == (78, True)


def test_a_workdirs_own_description_is_no_bad_template(home: Path) -> None:
    folder = home / "templates"
    (folder / "agents").mkdir(parents=True)
    (folder / "agents" / "mine.toml").write_text(DESCRIPTOR.format(argv='"mine"'))
    assert [one.result for one in check_templates(folder)] == [Level.OK]


def test_of_turns_that_are_tried_side_by_side_none_finds_the_processes_of_another(tmp_path: Path) -> None:
    """All of a turn is found by its id, and ended where it ends."""
    known = Known("none", "", read(DESCRIPTOR.format(argv='"/bin/true"').encode(), "none.toml"))
    bench = Bench(known, tmp_path / "bench", os.environ["PATH"], 20.0)
    bench.failing(PermissionMode.BYPASS_PERMISSIONS, [None, None])
    turns = [path.name for path in bench.folder.rglob(".agent-mailer/turns/*")]
    assert len(set(turns)) == len(turns) == 2


@pytest.mark.long
def test_an_agent_is_tried_and_what_was_found_is_kept_for_the_user(home: Path) -> None:
    done = type_in(home, "runtime", "check", "mine", "--patience", "20", "--json", env=dict(os.environ))
    points = {(one["number"], one["what"]): one for one in done.json["points"]}
    bad = {what: one["found"] for (_, what), one in points.items() if one["how"] == "bad"}
    assert done.status == 0, bad
    assert {number for number, _ in points} == set(range(1, 11))
    failures = {what: one["found"] for (number, what), one in points.items() if number == 6}
    assert len(failures) == 9
    assert failures["provider: 401"].startswith("signed_out")
    assert failures["provider: quota"].startswith("limited")
    assert failures["provider: silence"].startswith("unavailable")
    assert "did not run" in points[3, "a shell command in mode plan"]["found"]
    shown = type_in(home, "runtime", "show", "mine")
    assert "provider: 401" in shown.out
    assert (home / "config" / "agent-mailer" / "measured" / "mine.txt").is_file()


@pytest.mark.long
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda by: by.name)
def test_a_try_that_is_broken_off_leaves_no_agent_behind(home: Path, by: signal.Signals) -> None:
    """In the first turn, and, by a hang-up, where several fail beside each other."""
    script, there = home / "script.json", home / "there"
    steps = json.loads(script.read_text())
    if by is not signal.SIGHUP:
        steps["session/prompt"] = [{"touch": str(there)}, {"hang": True}]
    script.write_text(json.dumps(steps))
    file = home / "config" / "agent-mailer" / "agents" / "mine.toml"
    file.write_text(file.read_text().replace("silent_for = 2", "silent_for = 60"))
    check = subprocess.Popen([COMMAND, "runtime", "check", "mine"], cwd=home, stderr=subprocess.PIPE, text=True)
    try:
        assert check.stderr is not None
        if by is signal.SIGHUP:
            assert any("failures of its provider" in line for line in check.stderr)
            until(lambda: len(_agents(script)) >= 2, "agents beside each other")
        else:
            until(there.exists, "the agent's prompt")
            assert _agents(script)
        check.send_signal(by)
        check.communicate(timeout=PATIENCE)
        assert _agents(script) == []
    finally:
        check.kill()
        check.communicate()
        for pid in _agents(script):
            os.kill(pid, signal.SIGKILL)


def _agents(script: Path) -> list[int]:
    """Processes that follow it."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if str(script) in command_line(pid)]


@pytest.mark.long
def test_an_agent_that_is_no_good_is_told_so(home: Path) -> None:
    script = home / "script.json"
    steps = json.loads(script.read_text())
    steps["session/prompt"] = [{"answer": {"stopReason": "end_turn"}}]
    script.write_text(json.dumps(steps))
    done = type_in(home, "runtime", "check", "mine")
    assert done.status == 1
    assert "unavailable" in done.out
