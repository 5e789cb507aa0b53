"""Each way a turn can end, played by the real codex, gets its outcome."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.clis import codex_binary
from tests.e2e.codex_cases import CASES, play
from tests.e2e.fake_openai import fake_openai

from agent_mailer.outcomes import Outcome


@pytest.mark.parametrize("name", CASES)
def test_an_end_gets_its_outcome(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    with fake_openai() as fake:
        played = play(case, codex_binary(), tmp_path, fake)
    judgement = played.judgement
    assert judgement.outcome is case.outcome, judgement
    assert case.says in (judgement.final_text if case.outcome is Outcome.DONE else judgement.detail)
    assert played.seconds < 20
