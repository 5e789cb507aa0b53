"""A person edits a note while the agent works: neither loses the other's text."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.typed import COMMAND, type_in

from agent_mailer.events import EventName
from agent_mailer.state.notes import note_lock

APPEND = {"EDITOR": "sh -c 'echo mine >> \"$1\"' sh", "VISUAL": ""}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_while_a_turn_runs_its_notes_are_not_edited(desk: Desk) -> None:
    go = desk.base / "go"
    desk.script({"wait_for": str(go)}, {"print": "done"})
    desk.send(thread="busy")
    with desk.watching():
        until(lambda: desk.log(EventName.TURN_STARTED), "the agent works")
        for words in (["--thread", "busy"], ["--thread", "bus"], []):
            refused = type_in(desk.workdir, "memory", "edit", *words, env=APPEND)
            assert refused.status == 75
            assert "runs, and may write this note" in refused.err
            assert "memory edit --wait" in refused.err
        assert type_in(desk.workdir, "memory", "edit", "--thread", "idle", env=APPEND).status == 0
        waiting = subprocess.Popen(
            [COMMAND, "memory", "edit", "--wait", "--thread", "busy"],
            cwd=desk.workdir,
            env={**APPEND, "HOME": str(desk.base), "PATH": "/usr/bin:/bin"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "waiting for the end of turn" in waiting.stderr.readline()
        go.touch()
        waiting.communicate(timeout=60)
        assert waiting.returncode == 0
    assert (desk.state / "memory" / "busy.md").read_text().endswith("mine\n")


def test_a_note_that_changed_under_the_editor_is_left_and_the_text_kept(desk: Desk) -> None:
    type_in(desk.workdir, "memory", "edit", env=APPEND)
    path = desk.state / "memory" / "global.md"
    editor = f"sh -c 'echo theirs > {path}; echo again >> \"$1\"' sh"
    done = type_in(desk.workdir, "memory", "edit", "--json", env={"EDITOR": editor, "VISUAL": ""})
    assert done.status == 2  # it prints nothing that a script could want
    done = type_in(desk.workdir, "memory", "edit", env={"EDITOR": editor, "VISUAL": ""})
    assert done.status == 1
    assert path.read_text() == "theirs\n"
    (kept,) = desk.state.glob("note-*.edit.md")
    assert kept.read_text().endswith("mine\nagain\n")
    assert str(kept) in done.err


def test_a_turn_that_began_meanwhile_is_told_of_and_loses_nobody_s_text(desk: Desk) -> None:
    began, saved = desk.base / "began", desk.base / "saved"
    note = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "write_memory", "arguments": {"scope": "thread", "text": "theirs"}},
        }
    )
    desk.shell(
        f"cat >/dev/null; touch {began}; while [ ! -e {saved} ]; do sleep 0.02; done; "
        f"echo '{note}' | agent-mailer mcp >/dev/null; echo done"
    )
    editor = f"sh -c 'touch {desk.base}/open; while [ ! -e {began} ]; do sleep 0.02; done; echo mine >> \"$1\"' sh"
    editing = subprocess.Popen(
        [COMMAND, "memory", "edit", "--thread", "t"],
        cwd=desk.workdir,
        env={"EDITOR": editor, "HOME": str(desk.base), "PATH": "/usr/bin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until((desk.base / "open").exists, "the editor")
    with desk.watching():
        desk.send(thread="t")
        _, told = editing.communicate(timeout=60)
        assert editing.returncode == 0
        saved.touch()
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
    assert (desk.state / "memory" / "t.md").read_text() == "theirs"
    (kept,) = (desk.state / "memory").glob("t.md.before-*")
    assert kept.read_text().endswith("mine\n")
    assert kept.name in told


def test_one_writer_at_a_time_but_nobody_waits_for_ever(tmp_path: Path) -> None:
    with note_lock(tmp_path), note_lock(tmp_path), note_lock(tmp_path / "missing"):
        pass  # the second waited its second, and went on
