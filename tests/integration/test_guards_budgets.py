"""Budgets: a day's is a pause with its end, a thread's or sender's holds that mail; nothing gives a fresh allowance."""

from __future__ import annotations

import os
import random
from datetime import datetime
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.desk import until
from tests.guard_desk import Company
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.state.held import Guard
from agent_mailer.state.records import PauseReason
from agent_mailer.watch.guards.budgets import midnight

COSTS = """cat >/dev/null
echo '{"type":"usage","input_tokens":600,"output_tokens":400,"cost_usd":1.0}'
echo '{"type":"result","outcome":"done","text":"ok"}'
"""
NOON = datetime(2026, 6, 10, 12).astimezone().timestamp()


def company(tmp_path: Path, names: tuple[str, ...] = ("coder",), **limits: object) -> Company:
    return Company(tmp_path, dict.fromkeys(names, COSTS), command_output="jsonl", limits=limits)


def send(desk: Company, number: int, to: str = "coder", thread: str = "", sender: str = "user") -> str:
    return desk.send(to, thread or f"t{number}", key=f"k{number}-{to}", sender=sender)


def test_a_days_dollars_are_a_pause_until_midnight(tmp_path: Path) -> None:
    desk = company(tmp_path, dollars_per_day=3.5)
    for number in range(6):
        send(desk, number)
    clock = FakeClock()
    for _ in range(3):
        desk.once("coder", clock)
    assert desk.turns("coder") == 3, "after the first, what the largest of the last took is reserved"
    pause = desk.place("coder").state.pause.read()
    assert pause is not None
    assert (pause.reason, pause.until) == (PauseReason.BUDGET, midnight(clock.now(), 1))
    shown = type_in(tmp_path / "coder", "status")
    assert "limits.dollars_per_day is $3.50; $3.00 are taken" in shown.out
    [line] = type_in(tmp_path / "coder", "limits", "show", "--json").json["limits"]
    assert (line["name"], line["limit"], line["taken"]) == ("dollars_per_day", 3.5, 3.0)
    assert type_in(tmp_path / "coder", "resume").status == 0
    desk.once("coder", clock)
    assert desk.turns("coder") == 3
    clock.moment = midnight(clock.now(), 1) + 1
    desk.once("coder", clock)
    assert desk.turns("coder") == 6


def test_what_its_program_does_not_count_limits_nothing_and_everybody_says_so(tmp_path: Path) -> None:
    """A script that prints plain text: turns and time are counted of every one."""
    limits = {"turns_per_day": 2, "tokens_per_day": 10, "dollars_per_thread": 1.0}
    desk = Company(tmp_path, {"coder": "cat >/dev/null; echo ok"}, limits=limits)
    for number in range(3):
        send(desk, number)
    desk.once("coder", FakeClock())
    assert desk.turns("coder") == 2
    pause = desk.place("coder").state.pause.read()
    assert pause is not None
    assert "limits.turns_per_day is 2" in pause.detail
    at = tmp_path / "coder"
    assert type_in(at, "status", "--json").json["uncounted"] == ["tokens_per_day", "dollars_per_thread"]
    assert "tokens_per_day, dollars_per_thread hold nothing" in " ".join(type_in(at, "status").out.split())
    shown = {one["name"]: one["counted"] for one in type_in(at, "limits", "show", "--json").json["limits"]}
    assert shown == {"turns_per_day": True, "tokens_per_day": False, "dollars_per_thread": False}
    assert "the limit holds nothing" in type_in(at, "limits", "show").out
    assert "does not count tokens or dollars" in type_in(at, "cost").err


def test_a_person_raises_it_for_today(tmp_path: Path) -> None:
    desk = company(tmp_path, turns_per_day=1)
    for number in range(3):
        send(desk, number)
    desk.once("coder", FakeClock())
    assert desk.turns("coder") == 1
    agent = {"AGENT_MAILER_TURN_DIR": str(tmp_path)}
    assert type_in(tmp_path / "coder", "limits", "raise", "turns_per_day", "2", "--today", env=agent).status == 2
    for wrong in (("turns_per_day", "-1"), ("turns_per_day", "nan"), ("cows", "3")):
        assert type_in(tmp_path / "coder", "limits", "raise", *wrong, "--today").status == 2
    assert type_in(tmp_path / "coder", "limits", "raise", "turns_per_day", "2", "--today").status == 0
    desk.once("coder", FakeClock())
    assert desk.turns("coder") == 2
    assert desk.place("coder").state.pause.read() is not None


@pytest.mark.parametrize("limits", [{"turns_per_day": 2}, {"turns_per_thread": 9}, {}])
def test_a_limit_that_is_raised_for_good_or_taken_out_ends_its_pause(tmp_path: Path, limits: dict[str, int]) -> None:
    desk = company(tmp_path, turns_per_day=1)
    for number in range(2):
        send(desk, number)
    desk.once("coder", FakeClock())
    desk.once("coder", FakeClock())
    assert desk.turns("coder") == 1
    desk.configure("coder", limits=limits)
    desk.once("coder", FakeClock())
    assert desk.turns("coder") == 2


def test_a_million_is_shown_in_digits(tmp_path: Path) -> None:
    desk = company(tmp_path, tokens_per_day=1_234_567, minutes_per_day=30)
    send(desk, 1)
    desk.once("coder", FakeClock())
    shown = type_in(tmp_path / "coder", "limits", "show").out
    assert "tokens_per_day   1234567  1000" in shown
    raised = type_in(tmp_path / "coder", "limits", "raise", "tokens_per_day", "7654321", "--today")
    assert "tokens_per_day is 7654321 until" in raised.out


def test_what_is_not_set_is_not_raised(tmp_path: Path) -> None:
    desk = company(tmp_path, turns_per_day=3)
    desk.configure("coder", guards={"turns_per_hour": 0})
    for wrong, mend in (("dollars_per_day", "limits.dollars_per_day 5"), ("turns_per_hour", "guards.turns_per_hour 5")):
        typed = type_in(tmp_path / "coder", "limits", "raise", wrong, "5", "--today")
        assert (typed.status, f"config set {mend}" in typed.err) == (2, True)
    assert type_in(tmp_path / "coder", "limits", "raise", "guards.turns_per_day", "5", "--today").status == 2
    assert type_in(tmp_path / "coder", "limits", "raise", "limits.turns_per_day", "5", "--today").status == 0
    desk.configure("coder", limits={"turns_per_thread": 3})
    shown = type_in(tmp_path / "coder", "limits", "show", "--json").json["limits"]
    assert [(line["name"], line["limit"]) for line in shown] == [("turns_per_thread", 3)], "it is there no more"


def test_an_order_that_is_damaged_lifts_nothing_and_dollars_say_that_they_are_advice(tmp_path: Path) -> None:
    desk = company(tmp_path, dollars_per_day=1)
    assert type_in(tmp_path / "coder", "limits", "raise", "dollars_per_day", "9", "--today").status == 0
    shown = type_in(tmp_path / "coder", "limits", "show")
    assert ("until" in shown.out, "where a subscription pays they are no bill" in shown.err) == (True, True)
    [standing] = Path(os.environ["XDG_STATE_HOME"]).glob("agent-mailer/guards/*/standing.json")
    standing.write_text('{"raised": ')
    for number in range(3):
        send(desk, number)
        desk.once("coder", FakeClock())
    assert desk.turns("coder") == 1


@pytest.mark.parametrize(("key", "by"), [("tokens_per_thread", "thread"), ("turns_per_sender", "sender")])
def test_a_threads_and_a_senders_hold_that_mail_only(tmp_path: Path, key: str, by: str) -> None:
    desk = Company(
        tmp_path, {"coder": COSTS, "other": COSTS}, command_output="jsonl", limits={key: 2000 if by == "thread" else 2}
    )
    for number in range(3):
        send(desk, number, thread="one" if by == "thread" else "", sender="other" if by == "sender" else "user")
    mine = send(desk, 9)
    desk.once("coder", FakeClock())
    [entry] = desk.held("coder")
    assert entry.guard is Guard.BUDGET
    assert entry.why.endswith("tokens are taken by one" if by == "thread" else "2 turns are taken for other")
    [asked] = desk.questions()
    assert "people" not in asked, "a person has no more than that, too"
    raised = type_in(tmp_path / "coder", "limits", "raise", key, "9000", "--today").out
    assert "1 held for a budget: agent-mailer held list --guard budget" in raised
    assert mine in desk.place("coder").state.processed
    assert desk.turns("coder") == 3


def test_those_that_share_a_name_share_a_day(tmp_path: Path) -> None:
    desk = company(tmp_path, ("coder", "reviewer"), turns_per_day=3, share="team")
    for number in range(3):
        send(desk, number)
        send(desk, number, "reviewer")
    desk.work()
    assert desk.turns("coder") + desk.turns("reviewer") == 3
    assert PauseReason.BUDGET in {p.reason for name in desk.names if (p := desk.place(name).state.pause.read())}


def test_what_others_of_a_share_took_and_a_raised_hour_are_shown(tmp_path: Path) -> None:
    desk = company(tmp_path, ("coder", "reviewer"), turns_per_day=5, share="team")
    for name, number in (("coder", 2), ("reviewer", 1)):
        for one in range(number):
            send(desk, one, name)
        desk.once(name, FakeClock())
    [line] = type_in(tmp_path / "coder", "limits", "show", "--json").json["limits"]
    assert (line["taken"], line["others"]) == (3, 1)
    assert "3, 1 of it by others of its share" in type_in(tmp_path / "coder", "limits", "show").out
    assert type_in(tmp_path / "coder", "limits", "raise", "turns_per_hour", "300", "--today").status == 0
    hour = type_in(tmp_path / "coder", "limits", "show", "--json").json["limits"][-1]
    assert (hour["name"], hour["limit"], hour["taken"], hour["raised"]) == ("turns_per_hour", 300, 2, True)


def sums() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "agent-mailer" / "budgets" / "team"


def test_a_sum_that_is_lost_or_in_whose_place_something_else_is_counts_all_the_same(tmp_path: Path) -> None:
    desk = company(tmp_path, ("coder", "reviewer"), turns_per_day=3, share="team")
    for number in range(2):
        send(desk, number)
        desk.once("coder", FakeClock())
    [path] = sums().glob("*.json")
    path.unlink()
    desk.once("coder", FakeClock())
    assert path.exists(), "made anew from the turns at the next start"
    path.unlink()
    path.mkdir()
    send(desk, 2)
    desk.once("coder", FakeClock())
    send(desk, 3, "reviewer")
    desk.once("reviewer", FakeClock())
    assert (desk.turns("coder"), desk.turns("reviewer")) == (3, 0)
    assert "3 turns are taken, 3 turns of it by others of its share" in type_in(tmp_path / "reviewer", "status").out


def test_a_folder_of_sums_that_cannot_be_written_is_trouble_that_names_it(tmp_path: Path) -> None:
    desk = company(tmp_path, turns_per_day=3, share="team")
    sums().parent.mkdir(parents=True, exist_ok=True)
    sums().write_text("")
    send(desk, 1)
    desk.once("coder", FakeClock())
    assert desk.turns("coder") == 0
    log = (tmp_path / "coder/.agent-mailer/log.jsonl").read_text()
    assert f"mv {sums()} {sums()}.old" in log
    sums().unlink()
    desk.once("coder", FakeClock())
    assert desk.turns("coder") == 1


@pytest.mark.parametrize("damage", ["folder", "text"])
def test_what_a_person_has_said_is_set_aside_where_it_is_damaged(tmp_path: Path, damage: str) -> None:
    company(tmp_path)
    assert type_in(tmp_path / "coder", "held", "allow", "planner").status == 0
    [standing] = Path(os.environ["XDG_STATE_HOME"]).glob("agent-mailer/guards/*/standing.json")
    standing.unlink()
    standing.mkdir() if damage == "folder" else standing.write_text("{")
    assert type_in(tmp_path / "coder", "held", "allow", "boss").status == 0
    assert type_in(tmp_path / "coder", "held", "allow").out.split() == ["boss"]
    assert len(list(standing.parent.glob("standing.json.corrupt-*"))) == 1


@LONG
def test_killed_again_and_again_a_shared_day_is_no_longer(tmp_path: Path) -> None:
    """Two watchers of one account, of which one is killed at each turn that is seen."""
    slow = COSTS.replace("cat >/dev/null", "cat >/dev/null; sleep 0.1")
    desk = Company(
        tmp_path,
        dict.fromkeys(("coder", "reviewer"), slow),
        command_output="jsonl",
        limits={"turns_per_day": 7, "share": "team"},
        max_parallel_turns=2,
    )
    for number in range(8):
        send(desk, number)
        send(desk, number, "reviewer")

    def paused() -> bool:
        return all(desk.place(name).state.pause.read() is not None for name in desk.names)

    def turns() -> int:
        return sum(map(desk.turns, desk.names))

    def one_more() -> None:
        seen = turns()
        until(lambda: turns() > seen or paused(), "one more turn, or the end")

    kills = desk.kill_until(paused, one_more, random.Random(14))
    desk.work()  # the last of them may still run
    ran = [one for name in desk.names for one in desk.records(name) if one.process is not None]
    assert kills > 3
    assert len(ran) == 7, "no more, and no less"


# The ledger
