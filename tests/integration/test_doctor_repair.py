"""`doctor --repair`: each damage alone and any of them together; what it did is said, and a second run has nothing."""

from __future__ import annotations

import os
import random
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, outcomes, until
from tests.integration.test_bad_state import OpenTurn, Seasoned
from tests.typed import Typed, type_in

from agent_mailer.checks.repair import RepairReport, Taken, lost_messages, repair_workdir
from agent_mailer.errors import ConfigFault
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic, Envelope
from agent_mailer.state.requests import Request, Verb

GARBAGE = b"\x00\xff{torn"


def mend(desk: Desk) -> RepairReport:
    """Repair, and see to it that a second run finds nothing."""
    report = repair_workdir(desk.place())
    again = repair_workdir(desk.place())
    assert again.repaired == ()
    assert again.left == report.left
    return report


def said(report: RepairReport, name: str) -> list[str]:
    return [done.text for done in report.repaired if Path(done.path).name == name]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Seasoned(tmp_path_factory.mktemp("seasoned")).desk.base


@pytest.fixture
def seasoned(tmp_path: Path, template: Path) -> Seasoned:
    return Seasoned(tmp_path, template)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_nothing_to_repair_changes_nothing(seasoned: Seasoned) -> None:
    def shape() -> dict[str, bytes]:
        names = (p for p in seasoned.desk.base.rglob("*") if p.is_file() and p.name != ".lock")
        return {str(path): path.read_bytes() for path in names}

    before = shape()
    done = type_in(seasoned.desk.workdir, "doctor", "--repair")
    assert (done.status, done.out) == (0, "nothing to repair\n"), done
    assert shape() == before
    seasoned.recovers()


def test_what_was_done_is_printed_and_told_as_json(seasoned: Seasoned) -> None:
    state = seasoned.desk.state
    (state / "retries.json").write_bytes(GARBAGE)
    (state / "config.toml").chmod(0o644)
    done: Typed = type_in(seasoned.desk.workdir, "doctor", "--repair", "--json")
    assert done.status == 0, done
    assert set(done.json) == {"workdir", "ok", "repaired", "left"}
    assert done.json["ok"] is True
    assert {Path(row["path"]).name for row in done.json["repaired"]} == {"retries.json", "config.toml"}
    assert all(row["text"] for row in done.json["repaired"])
    assert type_in(seasoned.desk.workdir, "doctor", "--repair").out == "nothing to repair\n"
    (state / "sessions.json").write_bytes(GARBAGE)
    line = type_in(seasoned.desk.workdir, "doctor", "--repair").out
    assert line.startswith(f"repaired  {state}/sessions.json: damaged (")
    seasoned.recovers()


def test_a_running_watcher_is_not_disturbed(desk: Desk) -> None:
    with desk.watching() as watcher:
        until(lambda: type_in(desk.workdir, "status", "--json").json["watcher"]["pid"] == watcher.pid, "the watcher")
        done = type_in(desk.workdir, "doctor", "--repair")
    assert done.status == 75
    assert f"kill {watcher.pid}" in done.err
    assert done.out == ""


@pytest.mark.parametrize("name", ["sessions.json", "retries.json", "usage.json", "pause.json", "format"])
def test_a_garbled_file_is_set_aside(seasoned: Seasoned, name: str) -> None:
    path = seasoned.desk.state / name
    path.write_bytes(GARBAGE)
    assert said(mend(seasoned.desk), name)
    [aside] = seasoned.desk.state.glob(f"{name}.corrupt-*")
    assert aside.read_bytes() == GARBAGE
    seasoned.recovers()


@pytest.mark.parametrize("name", ["processed.txt", "dead_letter.jsonl", "log.jsonl", "watcher", ".lock", "cursor.txt"])
def test_a_folder_in_a_files_place_is_set_aside(seasoned: Seasoned, name: str) -> None:
    path = seasoned.desk.state / name
    path.unlink(missing_ok=True)
    path.mkdir(mode=0o700)
    assert said(mend(seasoned.desk), name)
    assert not path.is_dir()
    seasoned.recovers()


@pytest.mark.parametrize("name", ["turns", "memory", "requests"])
def test_missing_folders_are_made(desk: Desk, name: str) -> None:
    desk.once()
    shutil.rmtree(desk.state / name)
    assert said(mend(desk), name) == ["was missing, made anew"]
    assert stat.S_IMODE((desk.state / name).stat().st_mode) == 0o700


def test_the_index_is_made_anew_from_the_turns(desk: Desk) -> None:
    turn = OpenTurn(desk, running=False)
    for content in (GARBAGE, b'{"turns": []}'):
        (desk.state / "inflight.json").write_bytes(content)
        assert said(mend(desk), "inflight.json")
        assert [row.turn_id for row in desk.place().state.turns.indexed()] == [turn.record.turn_id]
    turn.settles()


def test_the_journal_is_folded_and_its_torn_line_is_kept(seasoned: Seasoned) -> None:
    state = seasoned.desk.state
    journal = b'{"thread":"t","entry":{"session_id":"s-9","generation":1}}\n{"thread":"to'
    (state / "sessions.journal").write_bytes(journal)
    (state / "sessions.journal").chmod(0o600)
    assert said(mend(seasoned.desk), "sessions.journal") == ["2 lines folded into sessions.json"]
    assert not (state / "sessions.journal").exists()
    assert '"s-9"' in (state / "sessions.json").read_text()
    [aside] = state.glob("sessions.journal.corrupt-*")
    assert aside.read_bytes() == b'{"thread":"to\n'
    seasoned.recovers()


def test_the_last_line_of_the_settled_ids_gets_its_end(seasoned: Seasoned) -> None:
    path = seasoned.desk.state / "processed.txt"
    path.write_bytes(path.read_bytes() + b"tor")
    assert said(mend(seasoned.desk), "processed.txt") == ["the last line had no end, and has one now"]
    assert path.read_bytes().endswith(b"tor\n")
    seasoned.recovers()


def test_dead_letters_that_cannot_be_read_are_kept_beside(seasoned: Seasoned) -> None:
    path = seasoned.desk.state / "dead_letter.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"garbage\n" + whole + b'{"msg_')
    assert said(mend(seasoned.desk), "dead_letter.jsonl")
    assert path.read_bytes() == whole + b'{"msg_\n', "what a crash has torn is no damage"
    [aside] = seasoned.desk.state.glob("dead_letter.jsonl.corrupt-*")
    assert aside.read_bytes() == b"garbage\n"
    seasoned.recovers()


def test_old_leftovers_of_interrupted_writes_go_and_young_ones_stay(desk: Desk) -> None:
    desk.once()
    old, young, strange = (desk.state / name for name in (".tmp.format.1", ".tmp.config.toml.2", "my notes"))
    for path in (old, young, strange):
        path.write_bytes(b"x")
        path.chmod(0o600)
    os.utime(old, (time.time() - 300, time.time() - 300))
    os.utime(strange, (time.time() - 300, time.time() - 300))
    assert said(mend(desk), old.name) == ["an interrupted write, removed"]
    assert (old.exists(), young.exists(), strange.exists()) == (False, True, True)


def test_what_others_could_read_is_closed(desk: Desk) -> None:
    desk.send()
    desk.once()
    [turn] = (desk.state / "turns").iterdir()
    asked = desk.state / "requests" / f"{desk.place().state.requests.submit(Request(Verb.PING))}.json"
    for path in (turn, asked, desk.state / "processed.txt", desk.state / "config.toml", desk.state):
        path.chmod(0o755)
    report = mend(desk)
    assert {Path(done.path).name for done in report.repaired} == {
        turn.name,
        asked.name,
        "processed.txt",
        "config.toml",
        ".agent-mailer",
    }
    assert stat.S_IMODE(desk.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((desk.state / "processed.txt").stat().st_mode) & 0o077 == 0
    desk.place().folder.check()


def test_the_mode_of_a_file_that_has_its_second_name_among_ours_is_left(desk: Desk) -> None:
    theirs = desk.base / "theirs"
    theirs.write_text("")
    theirs.chmod(0o644)
    ours = desk.state / "processed.txt"
    os.link(theirs, ours)
    mend(desk)
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o644
    ours.unlink(missing_ok=True)
    os.link(theirs, ours)
    desk.place().prepare()
    assert (stat.S_IMODE(theirs.stat().st_mode), theirs.read_text()) == (0o644, "")


def test_the_word_of_a_watcher_that_is_gone_goes(desk: Desk) -> None:
    desk.once()
    (desk.state / "trouble.json").write_text('{"what":"disk","why":"full","since":1.0}')
    (desk.state / "trouble.json").chmod(0o600)
    assert said(mend(desk), "trouble.json")
    assert not (desk.state / "trouble.json").exists()


def test_missing_folders_of_the_mailbox_are_made(desk: Desk) -> None:
    desk.once()
    for leaf in ("inbox/cur", "receipts"):
        shutil.rmtree(desk.root / "agents/coder" / leaf)
    report = mend(desk)
    assert said(report, "cur") == said(report, "receipts") == ["was missing or open to others, fixed"]
    desk.script({"witness": "ran"})
    desk.send()
    assert outcomes(desk.once()) == ["done"]


def test_what_it_cannot_mend_it_names_with_the_command_that_does(desk: Desk) -> None:
    desk.once()
    desk.root.rename(desk.base / "moved")
    (desk.state / "usage.json").write_bytes(GARBAGE)
    done = type_in(desk.workdir, "doctor", "--repair")
    assert done.status == 1
    assert f"a new, empty one: agent-mailer init --maildir-root {desk.root}" in done.out
    assert "usage.json: damaged" in done.out


def test_a_newer_format_is_refused_and_untouched(desk: Desk) -> None:
    desk.once()
    (desk.state / "format").write_text("99\n")
    (desk.state / "usage.json").write_bytes(GARBAGE)
    with pytest.raises(ConfigFault, match="newer agent-mailer"):
        repair_workdir(desk.place())
    assert (desk.state / "usage.json").read_bytes() == GARBAGE


def test_a_message_of_which_no_record_is_left_is_to_be_done_again(desk: Desk) -> None:
    """Its turn's record, its copy of the mail and the index are damaged at once: only the mailbox has it."""
    turn = OpenTurn(desk, running=False)
    for path in (turn.path / "turn.json", turn.path / "mail.json", desk.state / "inflight.json"):
        path.write_bytes(GARBAGE)
    report = mend(desk)
    assert f"{turn.sent} was taken and lost: it is back" in said(report, "retries.json")
    assert [e["message_id"] for e in desk.log(EventName.MESSAGE_REVIVED)] == [turn.sent]
    desk.script({"witness": "ran"}, {"print": "ok"})
    assert outcomes(desk.once()) == ["done"]
    assert outcomes(desk.once()) == []
    assert [mark["message"] for mark in desk.marks()] == [turn.sent]


def test_it_is_found_also_after_a_watcher_has_dropped_the_turn(desk: Desk) -> None:
    turn = OpenTurn(desk, running=False)
    for path in (turn.path / "turn.json", turn.path / "mail.json", desk.state / "inflight.json"):
        path.write_bytes(GARBAGE)
    assert outcomes(desk.once()) == []
    assert said(mend(desk), "retries.json")
    desk.script({"witness": "ran"})
    assert outcomes(desk.once()) == ["done"]


def test_mail_that_others_took_is_not_ours_to_do(desk: Desk) -> None:
    """Without a turn that lost its name nothing in `cur` is lost, whoever read it."""
    desk.once()
    inbox = desk.root / "agents/coder/inbox"
    sent = desk.send()
    (inbox / f"new/{sent}.md").rename(inbox / f"cur/{sent}.md")
    assert mend(desk).repaired == ()
    assert outcomes(desk.once()) == []


def taken(name: str, at: float, automatic: Automatic = Automatic.NO) -> Taken:
    return Taken(Envelope(name, "t", "user", 1.0, order="", locator=f"{name}.md", automatic=automatic), at)


def test_which_messages_are_lost() -> None:
    began = 1_700_000_000.0  # 2023-11-14T22:13:20Z
    turn = "20231114T221320-00000000"
    before, mine, later = taken("before", began - 3600), taken("mine", began + 0.5), taken("later", began + 900)
    notice = taken("notice", began, Automatic.NOTICE)
    everything = [before, later, mine, notice]

    def found(nameless: list[str], known: set[str]) -> list[str]:
        return [e.id for e in lost_messages(everything, nameless, lambda name: name not in known)]

    assert found([], set()) == []
    assert found([turn], set()) == ["mine"]
    assert found([turn, turn], set()) == ["mine", "later"]
    assert found([turn], {"mine", "later"}) == []


# Together.


def _write(name: str) -> Callable[[Desk], object]:
    return lambda desk: (desk.state / name).write_bytes(GARBAGE)


def _mode(name: str) -> Callable[[Desk], object]:
    return lambda desk: (desk.state / name).chmod(0o755)


def _tear(name: str) -> Callable[[Desk], object]:
    def tear(desk: Desk) -> None:
        with (desk.state / name).open("ab") as stream:
            stream.write(b"\0\0to")

    return tear


def _without(name: str) -> Callable[[Desk], object]:
    return lambda desk: shutil.rmtree(desk.root / "agents/coder" / name)


DAMAGES: dict[str, Callable[[Desk], Any]] = {
    "sessions": _write("sessions.json"),
    "journal": _write("sessions.journal"),
    "retries": _write("retries.json"),
    "index": _write("inflight.json"),
    "usage": _write("usage.json"),
    "pause": _write("pause.json"),
    "cursor": _write("cursor.txt"),
    "format": _write("format"),
    "trouble": _write("trouble.json"),
    "torn ids": _tear("processed.txt"),
    "torn dead letters": _tear("dead_letter.jsonl"),
    "open folder": _mode(""),
    "open config": _mode("config.toml"),
    "receipts": _without("receipts"),
    "sent": _without("outbox/sent"),
}


@pytest.mark.parametrize("seed", range(6))
def test_any_combination_recovers_and_every_message_is_settled_once(seasoned: Seasoned, seed: int) -> None:
    chosen = random.Random(seed).sample(sorted(DAMAGES), 3 + seed)
    for name in chosen:
        DAMAGES[name](seasoned.desk)
    report = mend(seasoned.desk)
    assert report.left == ()
    assert report.repaired
    seasoned.recovers()


def test_everything_at_once(seasoned: Seasoned) -> None:
    for damage in DAMAGES.values():
        damage(seasoned.desk)
    mend(seasoned.desk)
    seasoned.recovers()
