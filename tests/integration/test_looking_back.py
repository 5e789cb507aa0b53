"""What was sent, what it was about, what it cost; and an agent that begins with a role."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomlkit
from tests.clocks import FakeClock
from tests.desk import Desk
from tests.typed import Typed, type_in

from agent_mailer.setup.roles import ROLES
from agent_mailer.state.workdirs import remember
from agent_mailer.views.spending import By, spending


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    remember(found.workdir)
    return found


def at(desk: Desk, *words: str) -> Typed:
    return type_in(desk.workdir, *words)


def test_what_was_sent_is_listed_and_can_be_read(desk: Desk) -> None:
    assert at(desk, "mail", "sent").err == "nothing was sent\n"
    first = at(desk, "send", "coder", "The first one").out.strip()
    second = at(desk, "send", "coder", "--subject", "Another", "The second one\x1b[2J").out.strip()
    rows = at(desk, "mail", "sent").out.splitlines()[1:]
    assert [row.split()[3] for row in rows] == [first, second]
    assert [message["id"] for message in at(desk, "mail", "sent", "--limit", "1", "--json").json["messages"]] == [
        second
    ]
    shown = at(desk, "mail", "read", second)
    assert "The second one\\x1b[2J" in shown.out
    assert "Subject: Another" in shown.out
    # It was neither taken nor moved by that.
    assert len(desk.inbox("coder")) == 2
    assert at(desk, "mail", "read", "nothing").status == 1


def test_turns_are_listed_with_what_they_were_about(desk: Desk) -> None:
    desk.send("x", subject="Write\n rain.txt")
    desk.once()
    head, row = at(desk, "turns", "list").out.splitlines()
    assert head.split()[-1] == "subject"
    assert row.endswith("Write rain.txt")


def test_what_turns_took_sums_up_to_the_same_by_whatever(desk: Desk) -> None:
    agent = (
        "import json,os,sys; sys.stdin.read(); put = lambda **said: print(json.dumps(said)); "
        'put(type="session", id="s", model="large") if os.environ["AGENT_MAILER_THREAD_ID"] == "one" else None; '
        'put(type="usage", input_tokens=10, cost_usd=0.25)'
    )
    done = '; put(type="result", text="ok")'
    desk.configure(command=["python3", "-c", agent + done], command_output="jsonl")
    for thread in ("one", "one", "two"):
        desk.send("x", thread=thread)
    assert desk.once()
    assert at(desk, "cost").out.splitlines()[0].split() == [
        "day",
        "(UTC)",
        "turns",
        "time",
        "tokens",
        "in",
        "out",
        "cost",
    ]
    totals = {}
    for by in ("day", "agent", "thread", "sender", "program", "model"):
        found = at(desk, "cost", "--by", by, "--json").json
        totals[by] = found["total"]
        assert sum(row["spent"]["cost_usd"] for row in found["rows"]) == pytest.approx(0.75)
    assert all(total == totals["day"] for total in totals.values())
    assert (totals["day"]["turns"], totals["day"]["input_tokens"]) == (3, 30)
    threads = at(desk, "cost", "--by", "thread", "--json").json["rows"]
    assert [(row["name"], row["spent"]["turns"]) for row in threads] == [("one", 2), ("two", 1)]
    elsewhere = type_in(desk.base, "cost", "--by", "agent", "--all", "--json").json
    assert [row["name"] for row in elsewhere["rows"]] == ["coder"]
    models = at(desk, "cost", "--by", "model", "--json").json["rows"]
    assert [(row["name"], row["spent"]["turns"]) for row in models] == [("large", 2), ("command (it does not say)", 1)]
    assert at(desk, "cost", "--by", "colour").status == 2
    assert at(desk, "cost", "--days", "0").status == 2


def test_a_turn_that_ran_over_midnight_counts_for_one_day_by_whatever(desk: Desk) -> None:
    desk.send("x", thread="one")
    decided = datetime(2026, 5, 4, 0, 30, tzinfo=UTC).timestamp()
    desk.once(FakeClock(decided))
    place = desk.place()
    [turn] = place.state.turns.ids()
    record = place.state.turns.load(turn)
    assert record is not None
    record.claimed_at = decided - 3600
    place.state.turns.save(record)
    for days, now, counted in ((1, decided, 1), (2, decided + 86400, 1), (1, decided + 86400, 0)):
        assert [spending([place], by, days, now).total.turns for by in By] == [counted] * len(By)


@pytest.mark.parametrize("name", ROLES)
def test_a_template_makes_an_agent_with_a_role(tmp_path: Path, name: str) -> None:
    workdir = tmp_path / "project"
    workdir.mkdir()
    role = ROLES[name]
    words = ("--address", "helper", "--runtime", "command", "--command", "cat")
    made = type_in(workdir, "init", "--no-interactive", "--template", name, *words, "--maildir-root", ".agent-mail")
    assert made.status == 0, made
    config = tomlkit.parse((workdir / ".agent-mailer" / "config.toml").read_text()).unwrap()
    assert config["permission_mode"] == role.settings["permission_mode"]
    assert config["limits"] == role.settings["limits"]
    identity = (workdir / "AGENT.md").read_text()
    assert f"- **Role**: {role.role}" in identity
    assert role.prompt.strip() in identity
    # Its first mail is offered, and can be sent as it stands.
    offered = shlex.split(made.out.splitlines()[-1])
    assert offered[:3] == ["agent-mailer", "send", "helper"]
    sent = type_in(workdir, *offered[1:4])
    assert sent.status == 0, sent
    assert role.mail in type_in(workdir, "mail", "read", sent.out.strip()).out


def test_what_a_person_says_counts_before_the_template(tmp_path: Path) -> None:
    words = ("--address", "helper", "--runtime", "command", "--command", "cat", "--permission-mode", "acceptEdits")
    made = type_in(tmp_path, "init", "--no-interactive", "--template", "reviewer", "--role", "critic", *words)
    assert made.status == 0, made
    assert 'permission_mode = "acceptEdits"' in (tmp_path / ".agent-mailer" / "config.toml").read_text()
    assert "- **Role**: critic" in (tmp_path / "AGENT.md").read_text()
    wrong = type_in(tmp_path, "init", "--no-interactive", "--template", "reviewr", *words)
    assert (wrong.status, "reviewer, maintainer, triager, docs" in wrong.err) == (2, True)


def test_init_again_says_that_nothing_changed(desk: Desk) -> None:
    before = (desk.state / "config.toml").read_bytes()
    again = at(desk, "init", "--no-interactive")
    assert again.out.startswith(f"unchanged {desk.state / 'config.toml'}\n")
    assert "changed   " not in again.out
    assert "found" not in again.out
    assert (desk.state / "config.toml").read_bytes() == before


def test_a_thread_that_is_not_there_is_told(desk: Desk) -> None:
    told = at(desk, "mail", "thread", "NOTHING")
    assert (told.status, "there is no thread and no message 'NOTHING'" in told.err) == (1, True)
