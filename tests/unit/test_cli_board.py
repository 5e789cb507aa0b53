"""The plain board's last rows: how to leave it, and what is wanted for keys, whole at every width."""

from __future__ import annotations

import pytest

from agent_mailer.cli.status.live import _foot
from agent_mailer.cli.terminal.screen import cells

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
