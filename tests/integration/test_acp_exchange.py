"""One turn with an agent of the Agent Client Protocol, which here is a shell: what the bridge says of it in the end."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_mailer.process.talking import Stop, Talking
from agent_mailer.runtimes.acp.descriptor import UsageOf
from agent_mailer.runtimes.acp.exchange import STOPPED, exchange
from agent_mailer.runtimes.acp.orders import Orders


def says(**fields: Any) -> str:
    """Shell that prints a line of the protocol."""
    return f"echo '{json.dumps(fields)}'"


def update(what: str, **fields: Any) -> str:
    return says(method="session/update", params={"update": {"sessionUpdate": what, **fields}})


def chunk(text: str) -> str:
    return update("agent_message_chunk", content={"text": text})


def answers(number: int, **result: Any) -> str:
    return says(id=number, result=result)


INITIALIZED = f"read l; {answers(1, protocolVersion=1)}; read l"
SESSION = answers(2, sessionId="ses_1")
PROMPTED = f"{INITIALIZED}; {SESSION}; read l"
END = {"stopReason": "end_turn", "usage": {"inputTokens": 5, "outputTokens": 2}}
TOOL = update("tool_call", toolCallId="t1", title="bash")


class Stage:
    def __init__(self, base: Path, capture: pytest.CaptureFixture[str], stop: Stop) -> None:
        self.turn, self._capture, self._stop = base, capture, stop
        (base / "outbox").mkdir()
        (base / "prompt").write_text("Do it.\n")

    def play(self, script: str, **orders: Any) -> tuple[int, list[dict[str, Any]]]:
        """The exit status, and what was said to whoever follows the turn."""
        argv = ("/bin/sh", "-c", script)
        known = Orders(argv, "Agent", str(self.turn), str(self.turn), usage=UsageOf.PROMPT)
        said = msgspec.json.encode(msgspec.structs.replace(known, **orders)).decode()
        agent = Talking(argv, env=dict(os.environ), cwd=self.turn, longest=1 << 20)
        status = exchange(said, agent, self._stop)
        return status, [json.loads(line) for line in self._capture.readouterr().out.splitlines()]

    def result(self, script: str, **orders: Any) -> tuple[object, object]:
        status, said = self.play(script, **orders)
        [result] = [line for line in said if line["type"] == "result"]
        assert status == 0
        assert said[-1] == result
        return result["outcome"], result["text"] or result["detail"]


@pytest.fixture
def stage(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in handled}
    turn = tmp_path / "turn"
    turn.mkdir()
    stage = Stage(turn, capfd, Stop())
    with (turn / "prompt").open() as prompt:
        monkeypatch.setattr(sys, "stdin", prompt)
        yield stage
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_turn_that_is_asked_to_end_cancels_its_prompt_and_has_no_result(stage: Stage) -> None:
    """What an agent answers to that is no failure of its message."""
    cancelled = answers(3, stopReason="cancelled")
    script = f'{PROMPTED}; {TOOL}; kill -TERM $PPID; read l; echo "$l" >heard; {cancelled}; cat >/dev/null'
    status, said = stage.play(script)
    assert status == STOPPED
    assert [line["type"] for line in said] == ["session", "tool_start"]
    assert json.loads((stage.turn / "heard").read_text())["method"] == "session/cancel"


def test_one_that_leaves_in_the_middle_of_its_work_has_no_result_but_its_status(stage: Stage) -> None:
    status, said = stage.play(f"{PROMPTED}; {chunk('half of an')}; exit 3")
    assert (status, [line["type"] for line in said if line["type"] == "result"]) == (3, [])
    assert stage.play(f"{PROMPTED}; exit 0")[0] == 1


def test_silence_is_an_outage_but_not_while_a_tool_runs(stage: Stage) -> None:
    # Whatever is said at once is heard at once: here no silence at all is borne.
    outcome, why = stage.result(f"{PROMPTED}; exec sleep 20", silent_for=0.0, leaves_in=0.0)
    assert outcome == "unavailable"
    assert "has said nothing" in str(why)
    ended = update("tool_call_update", toolCallId="t1", status="completed")
    all_at_once = f'echo "$({ended}; {chunk("Done.")}; {answers(3, **END)})"'
    script = f'{INITIALIZED}; echo "$({SESSION}; {TOOL})"; read l; {all_at_once}'
    assert stage.result(script, silent_for=0.0) == ("done", "Done.")


def test_who_goes_on_talking_is_not_silent(stage: Stage) -> None:
    words = f"{chunk('It')}; sleep 0.2; {chunk(' is')}; sleep 0.05; {chunk(' 42.')}; {answers(3, **END)}"
    assert stage.result(f"{PROMPTED}; {words}", silent_for=0.15) == ("done", "It is 42.")


def test_words_that_nothing_vouches_for_are_asked_about_once(stage: Stage) -> None:
    first = f"{PROMPTED}; {chunk('The answer.')}; {answers(3, stopReason='end_turn')}; read l"
    again = f"{chunk('That was all.')}; {answers(4, stopReason='end_turn')}; cat >/dev/null"
    assert stage.result(f"{first}; {again}", usage=UsageOf.NONE)[0] == "failed"
    limited = says(id=4, error={"code": 429, "message": "rate limit"})
    assert stage.result(f"{first}; {limited}; cat >/dev/null", usage=UsageOf.NONE)[0] == "limited"
    outcome, text = stage.result(f"{first}; : >outbox/finish; {again}", usage=UsageOf.NONE)
    assert (outcome, text) == ("done", "The answer.")


def test_a_program_that_is_not_there_is_no_fault_of_the_message(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    orders = Orders(("/nowhere",), "Agent", str(stage.turn), str(stage.turn))
    assert exchange(msgspec.json.encode(orders).decode(), "/nowhere cannot be started: gone", Stop()) == 0
    assert json.loads(capfd.readouterr().out)["outcome"] == "unavailable"


def test_nothing_is_read_through_a_link_that_the_agent_puts_in_its_outboxs_place(stage: Stage) -> None:
    """Else a folder of its own choice could vouch for its words."""
    (stage.turn.parent / "elsewhere").mkdir()
    (stage.turn.parent / "elsewhere" / "finish").touch()
    swapped = "rm -r outbox; ln -s ../elsewhere outbox"
    outcome, _ = stage.result(f"{PROMPTED}; {swapped}; {answers(3, stopReason='end_turn')}")
    assert outcome == "unavailable"
