"""`status` of a workdir in each state: what it says, and whether somebody has to look."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, until
from tests.typed import Typed, type_in

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Priority
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.state.workdirs import remember
from agent_mailer.views.local import everywhere

MORE_THAN_ARE_READ = 520


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def look(desk: Desk, *words: str) -> Typed:
    return type_in(desk.workdir, "status", *words)


def seen(desk: Desk) -> dict[str, Any]:
    done = look(desk, "--json")
    found: dict[str, Any] = done.json
    assert done.status == (0 if found["healthy"] else 1), done
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in found["problems"]]


def test_a_watcher_that_waits_is_healthy_and_one_that_was_halted_is_not(desk: Desk) -> None:
    first = desk.send(thread="one")
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.TURN_SETTLED), "the first turn")
        found = seen(desk)
        assert codes(found) == []
        assert found["watcher"]["seconds"] >= 0
        assert found["next_wake"] == {"why": "mail", "at": None}
        (result,) = found["results"]
        assert (result["message_id"], result["thread"], result["sender"]) == (first, "one", "user")
        assert (result["outcome"], result["cost_usd"]) == ("done", 0)
        assert time.time() - 600 < result["at"] < time.time() + 1
        screen = look(desk)
        assert (screen.status, "healthy\n" in screen.out, "when mail comes" in screen.out) == (0, True, True)
        watcher.send_signal(signal.SIGSTOP)
        until(lambda: codes(seen(desk)) == ["watcher_halted"], "the halt is seen")
        assert f"kill -CONT {watcher.pid}" in look(desk).out
        watcher.send_signal(signal.SIGCONT)
        until(lambda: seen(desk)["healthy"], "it goes on")


def test_what_waits_is_shown_by_age(desk: Desk) -> None:
    for number in range(7):
        desk.send(thread=f"t{number}", priority=Priority.URGENT if number == 1 else None)
    found = seen(desk)["mailbox"]
    assert found["waiting"] == 7
    assert [queued["thread"] for queued in found["queue"]] == ["t0", "t1", "t2", "t3", "t4"]
    ages = [queued["seconds"] for queued in found["queue"]]
    assert ages == sorted(ages, reverse=True)
    screen = look(desk).out
    assert "waiting  7, the oldest for " in screen
    assert "t1  urgent\n" in screen


def test_a_long_queue_is_counted_without_what_is_settled(desk: Desk) -> None:
    sent = desk.send()
    new = desk.root / "agents/coder/inbox/new"
    text = (new / f"{sent}.md").read_text()
    ids = [f"2099-01-01T00-00-00.000Z_pid1_{number:08x}" for number in range(MORE_THAN_ARE_READ)]
    for message_id in ids:
        (new / f"{message_id}.md").write_text(text.replace(sent, message_id))
    (new / "1.md").write_text("no message")
    (desk.state / "processed.txt").write_text("".join(f"{i}\n" for i in (ids[0], ids[-1], "another")))
    found = seen(desk)["mailbox"]
    assert (found["waiting"], found["unreadable"]) == (MORE_THAN_ARE_READ - 1, 1)


def test_a_question_is_shown_until_it_is_answered_and_makes_nobody_ill(desk: Desk) -> None:
    desk.shell("cat >/dev/null; agent-mailer mail finish --blocked 'May I?'")
    desk.send(thread="db")
    desk.once()
    found = seen(desk)
    (question,) = found["blocked"]
    assert (question["thread"], question["asked"], question["question"]) == ("db", "user", "May I?")
    assert codes(found) == ["no_watcher"]
    assert "May I?" in look(desk).out
    desk.send("yes", thread="db")
    assert seen(desk)["blocked"] == []


def test_given_up_messages_and_a_lost_login_need_somebody(desk: Desk) -> None:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; echo 'no luck' >&2; exit 3")
    desk.send(thread="sad")
    desk.once()
    desk.place().state.pause.write(Pause(PauseReason.SIGNED_OUT, time.time(), time.time() + 600, "401"))
    found = seen(desk)
    assert codes(found) == ["no_watcher", "signed_out", "dead_letters"]
    (result,) = found["results"]
    assert (result["outcome"], result["detail"]) == ("failed", "no luck")
    screen = look(desk).out
    assert "signed out, until " in screen
    assert " min): 401" in screen
    assert f"fix: agent-mailer resume -C {desk.workdir}\n" in screen
    assert "failed  " in screen
    assert re.search(r"failed  \d+ s ago  sad  user  \d+ s  no luck\n", screen), screen


def test_with_a_limit_it_is_healthy_and_wakes_for_the_probe(desk: Desk) -> None:
    until_moment = time.time() + 7200
    desk.place().state.pause.write(Pause(PauseReason.LIMITED, time.time(), until_moment, "weekly"))
    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        until(lambda: seen(desk)["watcher"]["running"], "its name in the lock")
        assert seen(desk)["next_wake"]["why"] == "mail"
        desk.send()
        found = seen(desk)
        assert codes(found) == []
        assert found["next_wake"]["why"] == "probe"
        assert found["next_wake"]["at"] == pytest.approx(until_moment)


def test_results_are_found_whatever_became_of_the_log(desk: Desk) -> None:
    for number in range(7):
        desk.send(thread=f"t{number}")
    desk.once()
    threads = [f"t{number}" for number in (6, 5, 4, 3, 2)]
    assert [result["thread"] for result in seen(desk)["results"]] == threads
    (desk.state / "log.jsonl").rename(desk.state / "log.jsonl.1")
    assert [result["thread"] for result in seen(desk)["results"]] == threads
    (desk.state / "log.jsonl").write_text('{"event":"turn_settled","turn_id":"../../../etc"}\n' * 9)
    (desk.state / "log.jsonl.1").unlink()
    found = [result["thread"] for result in seen(desk)["results"]]
    assert len(found) == 5
    assert set(found) <= {f"t{number}" for number in range(7)}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--watch"], "no_terminal"),
        (["--watch", "--all", "-C", "."], "two_choices"),
        (["--watch", "--json"], "two_choices"),
        (["--all", "-C", "."], "two_choices"),
    ],
)
def test_what_cannot_be_is_refused(desk: Desk, words: list[str], code: str) -> None:
    done = look(desk, *words)
    assert (done.status, done.out if "--json" not in words else "") == (2, "")
    assert code in done.out if "--json" in words else "fix: " in done.err


def test_all_workdirs_are_shown_those_first_that_need_a_person(tmp_path: Path) -> None:
    names = ("asks", "dead", "idle", "locked")
    desks = {name: Desk(tmp_path / name) for name in names}
    for name, desk in desks.items():
        desk.configure(agent_name=name)
        desk.once()
        remember(desk.workdir)
    empty = type_in(tmp_path, "status", "--all", env={"XDG_STATE_HOME": str(tmp_path / "nobody")})
    assert (empty.status, "no workdirs yet" in empty.out) == (0, True), empty
    asks, dead = desks["asks"], desks["dead"]
    asks.shell("cat >/dev/null; agent-mailer mail finish --blocked 'May I?'")
    asks.send(thread="q")
    asks.once()
    dead.configure(max_retries=0)
    dead.shell("exit 3")
    dead.send()
    dead.once()
    (desks["locked"].state / "config.toml").chmod(0o644)
    gone = Desk(tmp_path / "gone")
    remember(gone.workdir)
    gone.workdir.rename(tmp_path / "elsewhere")
    with desks["asks"].watching(), desks["dead"].watching(), desks["idle"].watching():
        for name in names[:3]:
            until(lambda name=name: desks[name].log(EventName.WATCH_STARTED), name)  # type: ignore[misc]
        done = type_in(tmp_path, "status", "--all", "--json")
        assert done.status == 1, done
        shown = [(Path(one["workdir"]).parent.name, one["healthy"]) for one in done.json["workdirs"]]
        assert shown == [("locked", False), ("dead", False), ("asks", True), ("idle", True)]
        assert [p["code"] for p in done.json["workdirs"][0]["problems"]] == ["unreadable"]
        table = type_in(tmp_path, "status", "--all")
        assert (table.status, "2 of 4 not healthy; 1 question waits for a person" in table.out) == (1, True), table
        assert f"chmod 600 {desks['locked'].state}/config.toml" in table.out
        numbers = tmp_path / "numbers" / "agents.prom"
        numbers.parent.mkdir()
        for _ in range(2):
            written = type_in(tmp_path, "metrics", "--textfile", numbers)
            assert written.status == 0, written
        assert [one.name for one in numbers.parent.iterdir()] == ["agents.prom"]
        assert numbers.stat().st_mode & 0o777 == 0o644
        dead_one = f'agent="dead",workdir="{desks["dead"].workdir}"'
        assert f'agent_mailer_messages_stuck{{{dead_one},reason="given-up"}} 1\n' in numbers.read_text()
        assert type_in(tmp_path, "metrics", "--textfile", "numbers/agents.txt").status == 2
        (desks["locked"].state / "config.toml").chmod(0o600)
        with desks["locked"].watching():
            until(lambda: len(desks["locked"].log(EventName.WATCH_STARTED)) == 1, "the watcher")
            assert type_in(desks["dead"].workdir, "dead-letter", "purge", "--all").status == 0
            well = type_in(tmp_path, "status", "--all")
            assert (well.status, "4 healthy; 1 question waits" in well.out) == (0, True), well


KILLED_HALF_WAY = """import resource, signal, sys
from pathlib import Path
from agent_mailer.cli.metrics import _replace
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
_replace(Path(sys.argv[1]), "agent_mailer_healthy 1\\n" * 50)
"""


def test_a_collector_finds_no_file_of_half_the_numbers(tmp_path: Path) -> None:
    """It reads whatever ends in .prom, hidden or not, and of a number that it finds twice it takes none at all."""
    numbers = tmp_path / "agents.prom"
    numbers.write_text("agent_mailer_healthy 0\n")
    done = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, str(numbers)], check=False)
    assert done.returncode == -signal.SIGXFSZ
    [half] = [one for one in tmp_path.iterdir() if one != numbers]
    assert half.stat().st_size == 100
    assert not half.name.endswith(".prom")
    assert numbers.read_text() == "agent_mailer_healthy 0\n"


def test_init_and_watch_make_a_workdir_known(tmp_path: Path) -> None:
    flags = ["--runtime", "command", "--command", "cat", "--permission-mode", "plan", "--maildir-root", "mail"]
    made = type_in(tmp_path, "init", "--address", "coder", *flags, "--no-interactive")
    assert made.status == 0, made
    everything = type_in(tmp_path, "status", "--all", "--json").json
    assert [one["workdir"] for one in everything["workdirs"]] == [str(tmp_path)]
    desk = Desk(tmp_path / "by hand")
    assert type_in(desk.workdir, "watch", "--once").status == 0
    everything = type_in(tmp_path, "status", "--all", "--json").json
    assert {one["workdir"] for one in everything["workdirs"]} == {str(tmp_path), str(desk.workdir)}


def test_the_workdir_one_stands_in_is_shown_once_by_whatever_path_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    known = tmp_path / "link" / desk.workdir.name
    remember(known)
    monkeypatch.chdir(desk.workdir)
    assert [one.workdir for one in everywhere().workdirs] == [str(known)]
