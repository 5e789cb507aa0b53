"""`watch --dry-run` says what the engine then does: both take the same look, and the look changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.desk import CLI, Desk

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic, Priority
from agent_mailer.state.stuck import StuckKind

NEW = "agents/coder/inbox/new"
CUR = "agents/coder/inbox/cur"


def dry_run(desk: Desk) -> tuple[list[str], str]:
    """The ids that would run, and all that was printed."""
    before = snapshot(desk)
    done = subprocess.run(
        [*CLI, "watch", "--dry-run", "--workdir", str(desk.workdir)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert snapshot(desk) == before
    return re.findall(r"^would run: (\S+)", done.stdout, re.MULTILINE), done.stdout


def snapshot(desk: Desk) -> dict[str, bytes]:
    return {str(path.relative_to(desk.base)): path.read_bytes() for path in desk.base.rglob("*") if path.is_file()}


def claimed(desk: Desk, run: Callable[[], object]) -> list[str]:
    """The messages that a run claims, in order."""
    before = len(desk.log(EventName.TURN_CLAIMED))
    run()
    return [row["message_id"] for row in desk.log(EventName.TURN_CLAIMED)[before:]]


def test_a_notice_is_passed_by(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    notice = desk.send("fyi", automatic=Automatic.NOTICE)
    ready, told = dry_run(desk)
    assert ready == []
    assert f"would pass by: {notice} from user: a notice" in told
    assert "0 ready, 0 waiting" in told
    assert claimed(desk, desk.once) == []


def test_what_a_guard_would_hold_or_keep_waiting_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.configure(deny_from=["planner"], limits={"turns_per_day": 2, "share": "team"})
    strange = desk.send("x", sender="planner", thread="s")
    mine = [desk.send(f"n {number}", thread=f"t{number}") for number in range(3)]
    ready, told = dry_run(desk)
    assert ready == mine[:2]
    assert f"would hold: {strange} from planner: deny_from has planner" in told
    assert f"would wait: {mine[2]} from user: budget: limits.turns_per_day is 2 turns; 2 turns are taken" in told
    assert "2 ready, 0 waiting" in told
    assert not Path(os.environ["XDG_STATE_HOME"], "agent-mailer", "budgets").exists()
    assert claimed(desk, desk.once) == ready
    assert list(desk.place().state.held.waiting) == [strange]


def test_a_dead_letter_that_was_put_back_runs(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 1")
    sent = desk.send()
    desk.once()
    assert dry_run(desk)[0] == []
    (desk.root / CUR / f"{sent}.md").rename(desk.root / NEW / f"{sent}.md")
    assert dry_run(desk)[0] == [sent]
    assert claimed(desk, desk.once) == [sent]


def test_a_settled_message_that_is_listed_again_is_put_away(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    sent = desk.send()
    desk.once()
    (desk.root / CUR / f"{sent}.md").rename(desk.root / NEW / f"{sent}.md")
    ready, told = dry_run(desk)
    assert ready == []
    assert f"would put away: {sent}: settled already" in told
    assert claimed(desk, desk.once) == []
    assert not list((desk.root / NEW).iterdir())


@pytest.mark.parametrize("given_up", [False, True], ids=["done", "given up"])
def test_another_message_under_a_used_id_is_called_so(tmp_path: Path, given_up: bool) -> None:
    desk = Desk(tmp_path)
    if given_up:
        desk.configure(max_retries=0)
        desk.shell("cat >/dev/null; exit 1")
    sent = desk.send("first")
    desk.once()
    first = (desk.root / CUR / f"{sent}.md").read_bytes()
    (desk.root / NEW / f"{sent}.md").write_bytes(first.replace(b"first", b"another text"))
    ready, told = dry_run(desk)
    assert ready == []
    assert f"would put away: {sent}: another message under a used id" in told
    assert "settled already" not in told
    assert claimed(desk, desk.once) == []
    assert [entry.kind for entry in desk.place().state.stuck.all()] == [StuckKind.USED_ID]


def test_what_would_go_into_one_turn_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.configure(batch_low=True)
    sent = [desk.send(thread="chores", priority=Priority.LOW) for _ in range(3)]
    ready, told = dry_run(desk)
    assert ready == sent[:1]
    assert re.findall(r"^would run with it: (\S+)", told, re.MULTILINE) == sent[1:]
    assert claimed(desk, desk.once) == sent


def test_what_is_no_message_is_put_away(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (desk.root / NEW / "torn.md").write_text("---json\n{")
    ready, told = dry_run(desk)
    assert ready == []
    assert "would put away: torn.md" in told
    desk.once()
    assert not list((desk.root / NEW).iterdir())


@pytest.mark.parametrize("slots", [1, 3])
def test_what_would_run_is_what_runs_first(tmp_path: Path, slots: int) -> None:
    """Heads of threads, most urgent first; a thread whose head waits for its retry waits."""
    desk = Desk(tmp_path)
    desk.configure(max_parallel_turns=slots, retry={"first": 3600, "longest": 3600})
    desk.shell("cat >/dev/null; exit 1")
    held = desk.send(thread="red")
    claimed(desk, desk.once)
    # The wait is chosen by lot: at most an hour, and it must lie ahead here.
    path = desk.state / "retries.json"
    entries = json.loads(path.read_text())
    for entry in entries.values():
        entry["not_before"] = desk.place().clock.now() + 3000
    path.write_text(json.dumps(entries))
    desk.shell("cat >/dev/null; echo done")
    behind = desk.send(thread="red")
    plain = [desk.send(thread=thread) for thread in ("blue", "green")]
    urgent = desk.send(thread="black", priority=Priority.URGENT)
    ready, told = dry_run(desk)
    assert ready == [urgent, *plain]
    assert "3 ready, 2 waiting behind them" in told
    ran = claimed(desk, desk.once)
    assert ran == ready
    assert not {held, behind} & set(ran)
