"""A yes by mail when things go wrong: commands that are killed, files that are damaged, and thousands of questions."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.crash.children import Children, nursery
from tests.crash.points import Point, points
from tests.crash.power import EXTREMES, PowerModel
from tests.crash.recording import QuickSystem, RecordingSystem
from tests.desk import outcomes
from tests.integration.test_approvals import PUSH, AskingDesk, desk
from tests.sizes import LONG, sizes

from agent_mailer.approvals.calls import Call, as_input
from agent_mailer.approvals.turn import MOST_ASKED, TurnApprovals, ask, asked_in, use_up, used_in, write
from agent_mailer.beneath import names_in
from agent_mailer.disk import Disk, read_regular
from agent_mailer.events import EventName
from agent_mailer.state.approvals import KEPT, Answer, Approval, Approvals, By, Verdict, id_of
from agent_mailer.watch.notices import QUESTIONS_A_DAY

__all__ = ["desk"]

NOW = 1_700_000_000.0


def question(number: int, asked_at: float = 0.0, **fields: object) -> Approval:
    call = Call("Bash", as_input({"command": f"push {number}"}))
    turn = f"20261127T200000-{number:08x}"
    at = asked_at or time.time()
    one = Approval(id_of(turn, call), "", call, call.digest, turn, f"m{number}", "t", "user", "/w", at, at + 86400.0)
    return msgspec.structs.replace(one, **fields)


@pytest.fixture
def book(desk: AskingDesk) -> Approvals:
    place = desk.place()
    place.disk.system = QuickSystem()
    place.folder.prepare()
    place.folder.hold()
    return place.state.approvals


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with nursery() as found:
        yield found


# Whoever answers is killed.


@LONG
@pytest.mark.parametrize("stride", sizes(quick=9, long=1))
def test_a_command_that_is_killed_at_any_moment_has_answered_or_not_and_answers_again(
    desk: AskingDesk, children: Children, stride: int
) -> None:
    words = ("approve", "--always", "-C", str(desk.workdir))
    desk.send()
    desk.once(system=QuickSystem())
    [code] = desk.codes()
    book = desk.place().state.approvals
    trace, stderr = desk.base / "trace", desk.base / "stderr"

    def again() -> None:
        shutil.rmtree(book.folder / "always", ignore_errors=True)
        for path in (*book.folder.glob("*.answer"), *(desk.state / "requests").glob("*")):
            path.unlink()

    assert children.run(*words, code, stderr=stderr, point=Point(), trace=trace) == 0
    names = trace.read_text().splitlines()
    met = 0
    deaths = points(names)[stride // 2 :: stride]
    for point in deaths:
        again()
        met += children.run(*words, code, stderr=stderr, point=point) == -9
        there = [list(book.folder.glob(pattern)) != [] for pattern in ("q-*.json", "q-*.answer", "always/q-*.json")]
        assert there in ([True, False, False], [True, True, False], [True, True, True]), f"{point}: {there}"
        assert children.run(*words, code, stderr=stderr) == 0, f"{point}: {stderr.read_text()}"
        [answer] = [Approvals(desk.place().folder).answer_to(one.id) for one in desk.asked()]
        assert answer is not None
        assert answer.verdict is Verdict.ALLOW, point
        assert len(desk.place().state.approvals.standing()) == 1, f"{point}: it was allowed for good"
    # Now and then a life is shorter than the one that was traced.
    assert met >= max(1, len(deaths) - 2)
    assert outcomes(desk.once(system=QuickSystem())) == ["done"]
    assert (desk.acts(), desk.answered()) == ([PUSH], ["all 1 done"])
    for left in book.folder.glob(".tmp.*"):
        os.utime(left, (NOW, NOW))
    place = desk.place()
    place.state.approvals.prune(())
    assert not list(book.folder.glob(".tmp.*")), "what killed commands have begun to write goes in the end"


@LONG
def test_an_answer_of_which_nobody_told_the_watcher_is_carried_out(desk: AskingDesk) -> None:
    """The command was killed between its answer and its word to the watcher."""
    desk.send()
    desk.once(system=QuickSystem())
    [one] = desk.asked()
    desk.place().state.approvals.answer(one, Answer(Verdict.ALLOW, time.time(), By.COMMAND))
    assert outcomes(desk.once(system=QuickSystem())) == ["done"]
    assert desk.acts() == [PUSH]


# The folder holds what it should not.


def _text(path: Path) -> None:
    path.write_text("{")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _said_yes(desk: AskingDesk) -> Path:
    """A question and, beside it, its answer; returns the file of the question."""
    desk.send()
    desk.once(system=QuickSystem())
    [one] = desk.asked()
    book = desk.place().state.approvals
    book.answer(one, Answer(Verdict.ALLOW, time.time(), By.COMMAND))
    return book.folder / f"{one.id}.json"


damaged = pytest.mark.parametrize(
    "damage", [_text, *(pytest.param(one, marks=LONG) for one in (_empty, _link, _folder, _pipe))]
)


@damaged
def test_a_question_that_is_damaged_is_asked_anew_and_its_old_yes_counts_for_nothing(
    desk: AskingDesk, damage: Callable[[Path], None]
) -> None:
    damage(_said_yes(desk).with_suffix(".json"))
    assert outcomes(desk.once(system=QuickSystem())) == ["asked"]
    assert desk.log(EventName.STATE_DAMAGED)
    assert desk.acts() == []
    assert len(set(desk.codes())) == 2
    desk.say("approve", desk.codes()[-1])
    desk.once(system=QuickSystem())
    assert desk.acts() == [PUSH]


@damaged
def test_an_answer_that_cannot_be_read_allows_nothing_and_is_told(
    desk: AskingDesk, damage: Callable[[Path], None]
) -> None:
    damage(_said_yes(desk).with_suffix(".answer"))
    said = desk.say("approve", *desk.codes(), code=1)
    assert "cannot be read, and counts as none" in said.err
    assert "nothing was changed" in said.err
    assert outcomes(desk.once(system=QuickSystem())) == ["done"]
    assert desk.answered() == ["expired: the file of its answer cannot be read"]
    assert desk.acts() == []


def test_a_copy_of_a_question_is_no_other_question(book: Approvals) -> None:
    book.ask([question(1)])
    [one] = book.all()
    shutil.copy(book.folder / f"{one.id}.json", book.folder / "q-000000000000.json")
    (book.folder / "notes.txt").write_text("foreign")
    (book.folder / "q-\udcff.json").write_text("foreign")
    assert book.all() == [one]
    assert book.open() == [one]


@LONG
def test_a_workdir_that_was_moved_asks_anew(desk: AskingDesk) -> None:
    desk.send()
    desk.once(system=QuickSystem())
    desk.say("approve", *desk.codes())
    moved = desk.base / "elsewhere"
    desk.workdir.rename(moved)
    desk.workdir, desk.state = moved, moved / ".agent-mailer"
    desk.configure()
    assert outcomes(desk.once(system=QuickSystem())) == ["asked"]
    assert desk.acts() == []
    desk.say("approve", desk.codes()[-1])
    desk.once(system=QuickSystem())
    assert desk.acts() == [PUSH]


def test_a_clock_that_was_set_back_changes_no_answer(desk: AskingDesk) -> None:
    desk.send()
    ahead = time.time() + 3600.0
    desk.once(FakeClock(ahead), QuickSystem())
    os.utime(desk.place().state.approvals.folder, (ahead, ahead))
    assert outcomes(desk.once(system=QuickSystem())) == []
    desk.say("approve", *desk.codes())
    assert outcomes(desk.once(system=QuickSystem())) == ["done"]
    assert desk.acts() == [PUSH]


# Its message is gone.


def test_a_message_that_somebody_else_has_settled_is_asked_about_no_longer(desk: AskingDesk) -> None:
    sent = desk.send()
    desk.once(system=QuickSystem())
    place = desk.place()
    place.folder.hold()
    place.state.processed.add(sent)
    desk.once(system=QuickSystem())
    assert desk.say("approvals", "list", "--json").json["approvals"] == []
    said = desk.say("approve", *desk.codes(), code=1)
    assert "its message is done with; nothing was changed" in said.err
    assert desk.acts() == []


def test_of_what_is_over_the_newest_are_kept_and_all_that_is_needed(book: Approvals) -> None:
    over = [question(n, NOW + n, over=n % 2 == 0) for n in range(KEPT + 5)]
    needed = [question(n, NOW + n) for n in range(-3, 0)]
    book.ask([*over, *needed])
    book.answer(over[0], Answer(Verdict.DENY, NOW, By.COMMAND))
    book.prune({one.id for one in needed})
    left = {one.id for one in book.all()}
    assert left == {one.id for one in (*over[5:], *needed)}
    assert over[0].id not in book.answered()


# The disk refuses.


@LONG
def test_a_settlement_waits_for_a_disk_that_does_not_take_the_question(desk: AskingDesk) -> None:
    folder = desk.place().state.approvals.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    refused = 0

    class Full(QuickSystem):
        def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
            nonlocal refused
            if flags & os.O_CREAT and path.is_relative_to(folder) and refused < 3:
                refused += 1
                raise OSError(28, "No space left on device")
            return super().open(path, flags, mode)

    desk.send()
    full = Full()
    for number in range(1, 4):
        desk.once(system=full)
        assert (refused, desk.codes()) == (number, [])
    desk.once(system=full)
    assert len(desk.log(EventName.TURN_CLAIMED)) == len(desk.codes()) == 1
    desk.say("approve", *desk.codes())
    desk.once(system=QuickSystem())
    assert (desk.acts(), desk.answered()) == ([PUSH], ["all 1 done"])


# A turn's folder, which is the agent's to write.


def test_marks_and_questions_survive_the_power(tmp_path: Path) -> None:
    (tmp_path / "turn").mkdir()
    (tmp_path / "turn" / "outbox").mkdir()
    system = RecordingSystem(tmp_path, ("turn",), lambda _: True)
    disk = Disk(system)
    assert ask(disk, tmp_path / "turn", question(1).call)
    assert use_up(disk, tmp_path / "turn", "q-0123456789ab")
    for fate in EXTREMES:
        left = PowerModel(system.operations).crash(fate).content()
        names = {name.rpartition("/")[2]: data for name, data in left.items()}
        assert "used-q-0123456789ab" in names
        [asked] = [data for name, data in names.items() if name.startswith("ask-")]
        assert msgspec.json.decode(asked, type=Call) == question(1).call


@LONG
def test_ten_thousand_foreign_names_hide_no_mark_and_no_question(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    write(Disk(QuickSystem()), tmp_path, TurnApprovals())
    for number in range(10_000):
        (outbox / f"ask-{number}").touch()
    disk = Disk(QuickSystem())
    calls = [Call("Bash", as_input({"command": str(number)})) for number in range(MOST_ASKED + 1)]
    assert [ask(disk, tmp_path, call) for call in calls] == [True] * MOST_ASKED + [False]
    assert use_up(disk, tmp_path, "q-0123456789ab")
    assert not use_up(disk, tmp_path, "q-0123456789ab")
    began = time.process_time()
    found = asked_in(outbox)
    assert {call.input for call in found} == {call.input for call in calls[:-1]}
    assert used_in(outbox, ["q-0123456789ab", "q-000000000000"]) == {"q-0123456789ab"}
    assert time.process_time() - began < 1.0


def test_what_asks_or_uses_up_after_the_turn_is_refused(tmp_path: Path) -> None:
    disk = Disk(QuickSystem())
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox").rename(tmp_path / "sealed")
    with pytest.raises(OSError, match="outbox"):
        use_up(disk, tmp_path, "q-0123456789ab")
    with pytest.raises(OSError, match="outbox"):
        ask(disk, tmp_path, question(1).call)
    assert not list((tmp_path / "sealed").iterdir())


@pytest.mark.parametrize(
    "command", [pytest.param("a" * 1_000_000, marks=LONG), "\u202e\x00\x1b[2J `rm` $(x) 🦊 \n" * 3]
)
def test_large_and_odd_commands_are_asked_as_they_are_and_done_so(tmp_path: Path, command: str) -> None:
    desk = AskingDesk(tmp_path, command)
    desk.send(thread="t\u202e`$(x)")
    desk.once(system=QuickSystem())
    [one] = desk.asked()
    assert one.call.act == command
    [notice] = desk.notices()
    assert len(notice["act"]) < 60_000
    assert notice["act"].isprintable()
    shown = desk.say("approvals", "show", notice["code"])
    assert "\x1b" not in shown.out
    desk.say("deny", notice["code"])
    assert outcomes(desk.once(system=QuickSystem())) == ["done"]


def test_half_of_a_sign_is_shown_and_answered(desk: AskingDesk, book: Approvals) -> None:
    """JSON may hold one; no text that is written can."""
    call = Call("Bash", as_input({"command": "x\ud800y"}))
    book.ask([question(1, call=call, digest=call.digest)])
    [one] = book.all()
    [listed] = desk.say("approvals", "list", "--json").json["approvals"]
    assert listed["act"] == "x\ud800y"
    for words in (("list",), ("show", one.id), ("show", one.id, "--json")):
        assert "x\\ud800y" in desk.say("approvals", *words).out
    assert "x\\ud800y" in desk.say("approve", one.code).out


# Thousands.


@LONG
def test_whoever_asks_without_end_is_told_of_one_by_one_and_then_together(desk: AskingDesk) -> None:
    for number in range(QUESTIONS_A_DAY + 3):
        desk.send(thread=f"t{number}")
    desk.once(system=QuickSystem())
    assert len(desk.asked()) == QUESTIONS_A_DAY + 3
    told = [one["reason"] for one in desk.notices()]
    assert told == ["asked"] * QUESTIONS_A_DAY + ["many"]
    many = desk.notices()[-1]
    assert many["text"] == "coder asks whether it may run many things"
    assert many["fix"].startswith("agent-mailer approvals list")
    assert not {"code", "question", "act"} & many.keys()


def test_a_look_goes_through_the_folder_once_however_many_wait(
    book: Approvals, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.ask(ones := [question(n) for n in range(50)])
    book.answer(ones[0], Answer(Verdict.DENY, NOW, By.COMMAND))
    looks, reads = 0, 0

    def looked(folder: Path) -> list[str]:
        nonlocal looks
        looks += 1
        return names_in(folder)

    def was_read(path: Path, limit: int) -> bytes:
        nonlocal reads
        reads += 1
        return read_regular(path, limit)

    monkeypatch.setattr("agent_mailer.state.approvals.names_in", looked)
    monkeypatch.setattr("agent_mailer.state.approvals.read_regular", was_read)
    for _ in range(3):
        due = book.dues(time.time())
        moments = [due([one.id]) for one in ones]
        assert moments == [0.0, *(one.expires_at for one in ones[1:])]
    assert (looks <= 3, reads) == (True, 0)
    assert json.dumps(sorted(book.answered())) == json.dumps([ones[0].id])
