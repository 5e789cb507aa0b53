"""Each way a turn can end, played by the real codex, gets its outcome."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import SOON, until
from tests.e2e.clis import codex_binary
from tests.e2e.codex_cases import CASES, Case, begun, play, request_in, run, runtime_for
from tests.e2e.fake_openai import Say, Silence, fake_openai
from tests.sizes import LONG

from agent_mailer.outcomes import Outcome
from agent_mailer.processes import command_line, listed_pids

pytestmark = LONG


@pytest.mark.parametrize("name", CASES)
def test_an_end_gets_its_outcome(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    with fake_openai() as fake:
        played = play(case, codex_binary(), tmp_path, fake)
    judgement = played.judgement
    assert judgement.outcome is case.outcome, judgement
    assert case.says in (judgement.final_text if case.outcome is Outcome.DONE else judgement.detail)
    assert played.seconds < SOON
    assert not any(str(tmp_path) in " ".join(command_line(pid)) for pid in listed_pids()), "nothing of it is left"


def test_a_session_that_somebody_has_open_is_waited_for(tmp_path: Path) -> None:
    with fake_openai() as fake:
        answered = Case((Say("one"),), Outcome.DONE, "one")
        session_id = play(answered, codex_binary(), tmp_path, fake).observation.session_id
        assert session_id is not None
        runtime = runtime_for(answered, codex_binary(), tmp_path, fake)
        fake.script(Silence())
        with begun(runtime, request_in(tmp_path, session_id, folder="other")):
            until(lambda: len(fake.asked) == 2, "the other's question")
            judgement = run(runtime, request_in(tmp_path, session_id)).judgement
    assert judgement.outcome is Outcome.UNAVAILABLE
    assert "active writer" in judgement.detail
