"""A reserved file that changed while somebody else's turn ran: seen around each command, or around the whole turn."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.clocks import FakeClock
from tests.desk import Desk, outcomes, until
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.approvals.edits import PATCH, note_edits
from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.names import new_turn_id
from agent_mailer.process.holder import EXIT_FILE
from agent_mailer.reservations.calls import Before, Line, calls_in, note, open_in, put_before, seen_in
from agent_mailer.reservations.hook import argv_for, run
from agent_mailer.reservations.leases import Leases
from agent_mailer.reservations.port import Owner, Reservation
from agent_mailer.reservations.snapshots import Snapshot, taken
from agent_mailer.reservations.turn import HELD, put_held
from agent_mailer.watch.touched import touched_by

NOW = 1_700_000_000.0


class Turn:
    """A turn's folder and a project, in which `planner` has `src/**`."""

    def __init__(self, base: Path) -> None:
        self.project, self.folder = base / "project", base / "turn"
        for folder in (self.project / "src" / "deep", self.project / "docs", self.folder / "outbox"):
            folder.mkdir(parents=True)
        for name in ("src/a", "src/deep/b", "docs/c"):
            (self.project / name).write_text("before")
        self.hold(Reservation(Owner("planner", "t"), str(self.project), "src/**", time.time() + 600))

    def hold(self, *others: Reservation, own: bool = False) -> None:
        put_held(Disk(), self.folder, self.project, others, own=own)

    def hook(self, event: str, call: str = "one", **more: Any) -> str:
        given = {"hook_event_name": event, "tool_name": "Bash", "tool_use_id": call, **more}
        out = io.StringIO()
        run(self.folder, io.StringIO(json.dumps(given)), out)
        return out.getvalue()

    def seen(self) -> list[tuple[str, str]]:
        return [(one.path, one.how.value) for one in seen_in(self.folder)]


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    return Turn(tmp_path)


def test_around_a_command_all_that_changes_of_others_is_noted_and_the_agent_hears_it(turn: Turn) -> None:
    assert turn.hook("PreToolUse") == ""
    (turn.project / "src/a").write_text("after!")
    (turn.project / "src/new").write_text("x")
    (turn.project / "src/deep/b").unlink()
    (turn.project / "docs/c").write_text("mine")
    said = json.loads(turn.hook("PostToolUseFailure"))["hookSpecificOutput"]
    assert said["hookEventName"] == "PostToolUseFailure"
    assert "src/a (planner), src/deep/b (planner), src/new (planner)" in said["additionalContext"]
    assert turn.seen() == [("src/a", "changed"), ("src/deep/b", "removed"), ("src/new", "made")]
    (one, *_) = seen_in(turn.folder)
    assert one.owner == Owner("planner", "t")
    assert one.since <= one.at <= one.until
    assert turn.hook("PreToolUse", "two") == turn.hook("PostToolUse", "two") == ""
    assert len(turn.seen()) == 3
    assert open_in(turn.folder) == []


def test_of_several_that_have_something_each_is_named_with_what_is_his(turn: Turn) -> None:
    until = time.time() + 600
    names = [("planner", "src/**"), ("writer", "docs/**"), ("writer", "new")]
    turn.hold(*(Reservation(Owner(address, "t"), str(turn.project), pattern, until) for address, pattern in names))
    turn.hook("PreToolUse")
    for name in ("src/a", "docs/c", "new"):
        (turn.project / name).write_text("after!")
    turn.hook("PostToolUse")
    seen = [(one.path, one.owner.address, one.how.value) for one in seen_in(turn.folder)]
    assert seen == [("docs/c", "writer", "changed"), ("new", "writer", "made"), ("src/a", "planner", "changed")]


def test_what_changed_between_two_commands_is_no_commands(turn: Turn) -> None:
    for call in ("one", "two"):
        turn.hook("PreToolUse", call)
        turn.hook("PostToolUse", call)
        (turn.project / "src/a").write_text(call)
    assert turn.seen() == []


def test_each_file_that_a_patch_names_is_edited_under_each_name_that_it_has(turn: Turn) -> None:
    turn.hold(own=True)
    (turn.project / "linked").symlink_to("docs")
    patch = "*** Begin Patch\n*** Update File: src/a\n@@\n-x\n+y\n*** Update File: linked/c\n@@\n-x\n+y\n*** End Patch"
    fields = {"tool_name": PATCH, "tool_input": {"command": patch}, "cwd": str(turn.project)}
    note_edits(Disk(), turn.folder, fields)
    calls = calls_in(turn.folder)
    assert calls is not None
    assert [path for path, _ in calls.edits] == ["src/a", "linked/c", "docs/c"]


def test_what_changed_of_several_that_others_hold_is_each_ones(turn: Turn) -> None:
    until = time.time() + 600
    holders = ("planner", "src/**"), ("ann", "docs/**")
    held = [Reservation(Owner(name, "t"), str(turn.project), pattern, until) for name, pattern in holders]
    turn.hold(*held)
    turn.hook("PreToolUse")
    for name in ("src/a", "docs/c"):
        (turn.project / name).write_text("after!")
    said = json.loads(turn.hook("PostToolUse"))["hookSpecificOutput"]["additionalContext"]
    assert "docs/c (ann)" in said
    assert "src/a (planner)" in said
    assert {(one.path, one.owner.address, one.how.value) for one in seen_in(turn.folder)} == {
        ("src/a", "planner", "changed"), ("docs/c", "ann", "changed")
    }  # fmt: skip


def test_a_command_that_runs_on_in_the_background_has_not_ended(turn: Turn) -> None:
    turn.hold(own=True)
    for call, given in (("on", {"run_in_background": True}), ("over", {"run_in_background": False})):
        turn.hook("PreToolUse", call)
        turn.hook("PostToolUse", call, tool_input=given)
    calls = calls_in(turn.folder)
    assert calls is not None
    assert [math.isinf(end) for _, end in calls.spans] == [True, False]


def test_of_what_was_given_back_meanwhile_nothing_is_said(turn: Turn) -> None:
    turn.hook("PreToolUse")
    (turn.project / "src/a").write_text("after!")
    turn.hold(Reservation(Owner("planner", "another turn"), str(turn.project), "src/**", time.time() + 600))
    assert turn.hook("PostToolUse") == ""
    assert turn.seen() == []


def test_a_link_out_of_the_project_is_not_followed_and_state_is_left_out(turn: Turn, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (turn.project / "src/link").symlink_to(outside)
    for name in (".git", ".agent-mailer", "node_modules"):
        (turn.project / "src" / name).mkdir()
        (turn.project / "src" / name / "x").write_text("x")
    os.mkfifo(turn.project / "src/fifo")
    (turn.project / os.fsdecode(b"src/\xff")).write_text("x")
    (outside / "x").write_text("x")
    found = taken(turn.project, ["src/**"], NOW)
    assert (sorted(found.files), found.whole) == (["src/a", "src/deep/b", "src/fifo", "src/link"], True)
    assert taken(turn.project, [".agent-mailer/**", "src/.git"], NOW).files == {}
    assert sorted(taken(turn.project, ["**/b", "docs"], NOW).files) == ["docs/c", "src/deep/b"]
    assert not taken(turn.project, ["**"], NOW, most=2).whole
    assert len(taken(turn.project, ["**"], NOW, most=2).files) == 2


@pytest.mark.parametrize("patterns", [("src/**", "src2/**"), ("src2", "src"), ("src", "src/deep/b", "src2/e")])
def test_what_lies_beside_a_reserved_folder_under_a_longer_name_is_looked_at_too(
    turn: Turn, patterns: tuple[str, ...]
) -> None:
    (turn.project / "src2").mkdir()
    (turn.project / "src2/e").write_text("x")
    assert sorted(taken(turn.project, patterns, NOW).files) == ["src/a", "src/deep/b", "src2/e"]


def test_what_lies_beside_a_reserved_path_counts_for_nothing_and_what_two_patterns_name_counts_once(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.reservations.snapshots._MOST_SEEN", 5)
    for number in range(5):
        (turn.project / f"src/beside-{number}").write_text("x")
    found = taken(turn.project, ["docs", "src/deep", "src/deep/b"], NOW, most=2)
    assert (sorted(found.files), found.whole) == (["docs/c", "src/deep/b"], True)


def test_a_command_that_was_ended_with_its_turn_stays_open_and_one_that_never_ran_does_not(turn: Turn) -> None:
    turn.hook("PreToolUse", "denied")
    turn.hook("PreToolUse", "ran")
    turn.hook("PostToolUse", "ran")
    assert open_in(turn.folder) == []
    turn.hook("PreToolUse", "killed")
    (before,) = open_in(turn.folder)
    assert sorted(before.snapshot.files) == ["src/a", "src/deep/b"]


def test_commands_that_run_at_once_stay_open_each_also_where_the_outbox_is_sealed(turn: Turn) -> None:
    for call in ("one", "two"):
        put_before(Disk(), turn.folder, call, Before(call, (), Snapshot(NOW, {})))
    assert [before.project for before in open_in(turn.folder)] == ["one", "two"]
    (turn.folder / "outbox").rename(turn.folder / "outbox.sealed")
    assert [before.project for before in open_in(turn.folder)] == ["one", "two"]


@pytest.mark.parametrize(("since", "told"), [(60.0, []), (0.0, ["src/a"])])
def test_what_was_written_after_a_turns_end_is_not_of_the_turn(turn: Turn, since: float, told: list[str]) -> None:
    """Its watcher was away: who had it reserved went on meanwhile."""
    state, turn_id = Desk(turn.project.parent).place().state, new_turn_id(NOW)
    turn.folder = state.turns.path(turn_id)
    (turn.folder / "outbox").mkdir(parents=True)
    turn.hold(Reservation(Owner("planner", "t"), str(turn.project), "src/**", time.time() + 600))
    turn.hook("PreToolUse", "killed")
    (turn.project / "src/a").write_text("after")
    ended = time.time() - since
    (turn.folder / EXIT_FILE).write_text("0\n")
    os.utime(turn.folder / EXIT_FILE, (ended, ended))
    found = asyncio.run(touched_by(state, turn_id, turn.project, time.time() + 120))
    assert [one.path for one in found] == told


def test_a_turns_own_doings_are_read_again_whatever_stands_between(turn: Turn) -> None:
    turn.hold(own=True)
    disk = Disk()
    for line in (Line(1.0, "a"), Line(2.0, edit="src/a"), Line(3.0, "a", ended=True), Line(4.0, "b")):
        note(disk, turn.folder, line)
        with (turn.folder / "outbox/calls.jsonl").open("ab") as file:
            file.write(b"{\n\xff\n" + b"[" * 100_000 + b"\n")
    calls = calls_in(turn.folder)
    assert calls is not None
    assert calls.spans == ((1.0, 3.0), (4.0, float("inf")))
    assert calls.edits == (("src/a", 2.0),)


def test_what_cannot_be_noted_keeps_no_command_from_anything(turn: Turn) -> None:
    (turn.folder / HELD).write_text("{")
    assert turn.hook("PreToolUse") == turn.hook("PostToolUse") == ""
    (turn.folder / HELD).unlink()
    (turn.folder / "outbox").rmdir()
    turn.hold(Reservation(Owner("planner", "t"), str(turn.project), "src/**", time.time() + 600))
    assert turn.hook("PreToolUse") == turn.hook("PostToolUse") == ""
    run(turn.folder, io.StringIO("no JSON"), io.StringIO())


def test_where_nobody_holds_anything_no_program_of_ours_is_started(turn: Turn) -> None:
    turn.hold()
    argv = argv_for(turn.folder)
    traced = [*argv[:4], sys.executable, "-c", "print('started')"]
    assert subprocess.run(traced, capture_output=True, check=True).stdout == b""
    turn.hold(own=True)
    assert subprocess.run(traced, capture_output=True, check=True).stdout == b"started\n"


def holding(desk: Desk, address: str, *patterns: str) -> Leases:
    keeper = Leases(desk.root / "meta", Disk(), FakeClock(), project=os.path.realpath(desk.workdir), address=address)
    assert asyncio.run(keeper.take("", list(patterns), 600.0)) == []
    return keeper


def test_a_command_without_hooks_is_looked_at_around_its_whole_turn(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (desk.workdir / "src").mkdir()
    for name in ("a", "same"):
        (desk.workdir / "src" / name).write_text("before")
    subprocess.run(["git", "init", "-q", str(desk.workdir)], check=True)
    (desk.workdir / ".gitignore").write_text("*.log\n")
    holding(desk, "planner", "src/**")
    desk.tell()
    desk.configure(reservations=True)
    desk.shell("cat >/dev/null; echo x >src/a; echo x >src/x.log; echo ok")
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    (event,) = desk.log(EventName.RESERVATION_TOUCHED)
    assert event["file"] == "src/a"
    line = event["why"]
    assert line.startswith(
        "While this turn ran files changed that others have reserved: src/a (planner has src/**; who"
    )
    assert desk.answered() == [f"ok\n\n[{line}]"]
    (told,) = desk.inbox("planner")
    assert "- src/a (src/**): changed; who wrote it is not known" in told.body
    assert told.envelope.automatic.value == "notice"
    assert [one["kind"] for one in desk.notices()] == ["reserved"]
    assert type_in(desk.workdir, "turns", "show", event["turn_id"], "--json").json["turn"]["touched"] == line
    # Nothing of others' is touched: nothing is told.
    desk.shell("cat >/dev/null; cat src/a; echo ok >own")
    desk.send()
    desk.once()
    assert len(desk.log(EventName.RESERVATION_TOUCHED)) == len(desk.inbox("planner")) == 1


@LONG
def test_what_is_given_back_while_a_turn_runs_is_looked_at_then_and_no_longer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (desk.workdir / "src").mkdir()
    go = tmp_path / "go"
    keeper = holding(desk, "planner", "src/**")
    wait = f"while [ ! -e {go} ]; do sleep 0.02; done"
    desk.configure(
        reservations=True, command=["/bin/sh", "-c", f"cat >/dev/null; echo x >src/a; {wait}; echo x >src/b"]
    )
    desk.send()
    with desk.watching():
        until((desk.workdir / "src/a").exists, "the turn at work")
        looked = next(iter((desk.state / "turns").iterdir())) / "reserved.json"
        # It was held still when it was written: the watcher has looked again since.
        assert asyncio.run(keeper.take("", ["docs"], 600.0)) == []
        until(lambda: len(json.loads(looked.read_text())["open"]) == 2, "a look at what is held")
        asyncio.run(keeper.release(""))
        until(lambda: json.loads(looked.read_text())["open"] == [], "the watcher has seen it given back")
        go.touch()
        until(lambda: desk.log(EventName.TURN_SETTLED), "the turn settled")
    (event,) = desk.log(EventName.RESERVATION_TOUCHED)
    assert event["file"] == "src/a"


def test_what_an_agent_writes_into_its_hooks_notes_harms_no_turn(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (desk.workdir / "src").mkdir()
    (desk.workdir / "src/a").write_text("before")
    holding(desk, "planner", "src/**")
    desk.configure(reservations=True)
    seen = {"how": "made", "pattern": "p", "since": 1, "until": 1e308}
    odd = [
        {"at": 1, "seen": [{**seen, "path": "../\0x\ud800", "owner": {"address": "nobody-there", "turn": "../../x"}}]},
        {"at": 1, "seen": [{**seen, "path": "a\nb", "owner": {"address": "planner", "turn": ""}}]},
        {"at": 1, "call": "x" * 10_000, "seen": "no"},
    ]
    lines = tmp_path / "lines"
    lines.write_text("".join(f"{json.dumps(one)}\n" for one in odd))
    out = "$AGENT_MAILER_TURN_DIR/outbox"
    desk.shell(f"cat >/dev/null; cp {lines} {out}/calls.jsonl; mkfifo {out}/before-x; echo x >src/a; echo ok")
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    (answer,) = desk.answered()
    assert answer.startswith("ok\n\n[While ")
    assert "\\n" in answer
    (told,) = desk.inbox("planner")
    assert "src/a" in told.body
    assert type_in(desk.workdir, "stuck", "list", "--json").json["stuck"] == []
