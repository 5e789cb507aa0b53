"""The plain board: something of each part at every height; its last rows say how to leave it, whole at every width."""

from __future__ import annotations

import msgspec
import pytest

from agent_mailer.cli.status import board as drawn
from agent_mailer.cli.status.live import _foot
from agent_mailer.cli.terminal.screen import cells
from agent_mailer.views.values.needs import BoardView, MovedView, NeedKind, NeedView
from agent_mailer.views.values.status import FaultView

HINT = "with keys: uv tool install --force --editable '/home/ann/programs/agent-mailer[tui]'"


@pytest.mark.parametrize(("width", "rows"), [(40, 4), (80, 3), (120, 1), (200, 1)])
def test_the_hint_is_whole_at_every_width(width: int, rows: int) -> None:
    lines = _foot(HINT, width)
    assert len(lines) == rows
    assert max(map(cells, lines)) <= width
    assert HINT.replace(" ", "") in "".join(lines).replace(" ", "")
    assert "Ctrl-C ends this" in lines[0]


def test_without_a_hint_it_is_one_row() -> None:
    assert [line.partition("  ")[2] for line in _foot("", 40)] == ["Ctrl-C ends this"]


def board(agents: int, needs: int, mail: int) -> BoardView:
    command = f"agent-mailer watch -C /home/ann/{'x' * 60}/agents/coder"
    return BoardView(
        False,
        tuple(FaultView(f"/agents/agent-{number}", ()) for number in range(agents)),
        tuple(
            NeedView(str(number), NeedKind.TROUBLE, "", f"need-{number}", 0.0, why="no watcher runs", command=command)
            for number in range(needs)
        ),
        tuple(MovedView(str(number), "", "planner", f"mail-{number:02}", "t") for number in range(mail)),
        0.0,
        0,
    )


@pytest.mark.parametrize(("columns", "rows"), [(80, 20), (200, 46), (40, 9), (40, 7), (80, 16), (60, 15)])
@pytest.mark.parametrize("needs", [1, 3, 40])
def test_each_part_has_something_of_the_height(
    monkeypatch: pytest.MonkeyPatch, columns: int, rows: int, needs: int
) -> None:
    monkeypatch.setattr(drawn, "width", lambda: columns)
    shown = drawn.lines(board(8, needs, 30), rows)
    text = "\n".join(shown)
    assert len(shown) <= rows, text
    assert max(map(cells, shown)) <= columns
    for part in ("agent-0", "need-0", "mail-29"):
        assert part in text, text
    hidden = [number for number in range(needs) if f"need-{number}:" not in text]
    assert (f"and {len(hidden)} more (" in text) == bool(hidden), text
    if needs == 40:
        assert hidden


def test_without_an_end_of_rows_all_mail_is_there_and_eight_needs() -> None:
    text = "\n".join(drawn.lines(board(30, 20, 12)))
    assert all(part in text for part in ("agent-29", "need-7", "and 12 more (", "mail-00", "mail-11"))
    assert "need-8:" not in text


@pytest.mark.parametrize(
    ("rows", "wanted", "given"),
    [
        (15, [5, 30, 30], [5, 5, 5]),
        (15, [2, 30, 5], [2, 8, 5]),
        (15, [1, 2, 3], [1, 2, 3]),
        (2, [9, 9, 9], [0, 1, 1]),
        (-1, [1], [0]),
    ],
)
def test_who_wants_little_has_it_and_the_others_share(rows: int, wanted: list[int], given: list[int]) -> None:
    assert drawn.shares(rows, wanted) == given


NEED = NeedView("q", NeedKind.QUESTION, "/agents/coder", "coder", 0.0, why="Which colour?", asked="user")


@pytest.mark.parametrize(
    "needs",
    [
        (),
        (NEED, msgspec.structs.replace(NEED, id="r", why="Which size?")),
        (msgspec.structs.replace(NEED, id="r", why="Which size?"),),
        (msgspec.structs.replace(NEED, why="Which colour of the two?"),),
    ],
    ids=["it is over", "one more", "another in its place", "the same says something else"],
)
def test_whatever_changes_of_what_needs_a_person_is_worth_telling(needs: tuple[NeedView, ...]) -> None:
    before = msgspec.structs.replace(board(1, 0, 1), needs=(NEED,))
    assert drawn.gist(msgspec.structs.replace(before, needs=needs)) != drawn.gist(before)
    assert drawn.gist(msgspec.structs.replace(before, cost_usd=1.0)) == drawn.gist(before)
