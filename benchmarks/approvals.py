"""What ten thousand open questions cost: a look, a turn's start and end, and the commands that read them all."""

from __future__ import annotations

import time
from pathlib import Path

from tests.crash.recording import QuickSystem
from tests.desk import Desk

from agent_mailer.approvals.calls import Call, as_input
from agent_mailer.mailbox.port import Envelope
from agent_mailer.state.approvals import Approval, Approvals, id_of
from agent_mailer.state.records import RetryEntry
from benchmarks.measuring import median_of, row
from benchmarks.status import folder

MANY = 10_000
FEW = 10
MOST_LOOK, MOST_READ = 10.0, 200.0
"""Microseconds for a question: of a look over all that wait, and of a command that reads them all."""


def waiting() -> None:
    """Each beside the same with ten: what a turn pays must not grow."""
    with folder() as base:
        few, many = _asked(base / "few", FEW), _asked(base / "many", MANY)
        look = _looks(many)
        starts = _starts(many) / _starts(few)
        read = median_of(5, many.open)
    per_look, per_read = look / MANY * 1e6, read / MANY * 1e6
    row(
        f"a look, {MANY:,} questions wait",
        f"{look * 1e3:.1f} ms ({per_look:.1f} us each)",
        f"at most {MOST_LOOK:.0f} us each",
        met=per_look <= MOST_LOOK,
    )
    row("a turn that is told, beside ten that wait", f"{starts:.1f} times", "at most 3 times", met=starts <= 3)
    row(
        "what approvals list and status read",
        f"{read * 1e3:.0f} ms ({per_read:.0f} us each)",
        f"at most {MOST_READ:.0f} us each",
        met=per_read <= MOST_READ,
    )


def _asked(base: Path, count: int) -> Approvals:
    """As a watcher has them that has asked them all, some time ago."""
    desk = Desk(base)
    place = desk.place()
    place.disk.system = QuickSystem()
    place.folder.prepare()
    place.folder.hold()
    book, now = place.state.approvals, time.time()
    entries: list[RetryEntry] = []
    for number in range(count):
        call = Call("Bash", as_input({"command": f"git push origin {number}"}), why="the release is ready")
        turn = f"20261127T200000-{number:08x}"
        one = Approval(id_of(turn, call), "", call, call.digest, turn, f"m{number}", "t", "user", "/w", now, now + 9e4)
        book.ask([one])
        entries.append(RetryEntry(Envelope(f"m{number}", "t", "user", now, "o", "l"), asked=(one.id,)))
    place.state.retries.put_all(entries)
    return book


def _looks(book: Approvals) -> float:
    asked = [one.id for one in book.all()]

    def look() -> None:
        due = book.dues(time.time())
        for one in asked:
            due((one,))

    return median_of(9, look)


def _starts(book: Approvals) -> float:
    """Seconds of what a turn does that is told of an answer: at its start, and at its end."""
    first = book.all()[0].id

    def turn() -> None:
        book.standing()
        book.grant(first, "turn")
        book.ended([first], "turn", (), over=False)

    book.grant(first, "turn")
    return median_of(21, turn)
