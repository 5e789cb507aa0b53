"""What an agent prints in its headless mode: JSON objects, a line each, as its description says what they mean. Pure.

The prompt is all that such an agent is told. It has no words to ask with: what it may do, its arguments say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from agent_mailer.names import is_session_id, printable
from agent_mailer.outcomes import FINAL_TEXT_LIMIT, MOST_OPEN, PROGRESS_LIMIT
from agent_mailer.runtimes.acp import wire
from agent_mailer.runtimes.acp.conversation import FINISH, Decide, HangUp, Say, Send, Step
from agent_mailer.runtimes.acp.descriptor import Line, UsageOf
from agent_mailer.runtimes.acp.orders import Ended, Failure, Orders, Verdict
from agent_mailer.runtimes.acp.wire import Fields

_SHOW_EVERY = 1.0
_NAME = 200


class Listening:
    """As a `Conversation` is used by the bridge: `steps` are to be done after each call, `ended` is set where the agent
    has said that it has ended. It is never `judged` before.
    """

    cancels = False
    """There is no word for it: it is asked by a signal."""

    def __init__(self, orders: Orders, prompt: str) -> None:
        self._orders = orders
        self._prompt = prompt
        self.steps: list[Step] = []
        self.judged: Verdict | None = None
        self.ended: Ended | None = None
        self.prompted = False
        self._text = self._before = ""
        self._open: set[str] = set()
        self._shown_at = float("-inf")
        self._spent = (0, 0)
        self._tokens: int | None = None
        self._failure: Failure | None = None

    @property
    def over(self) -> bool:
        return self.ended is not None

    @property
    def in_a_tool(self) -> bool:
        return bool(self._open)

    def begin(self) -> None:
        text = f"{self._prompt.rstrip()}\n\n{FINISH[self._orders.mail]}\n"
        self.steps += [Send(text.encode("utf-8", "replace")), HangUp()]
        self.prompted = True

    def ask_again(self, _text: str, /) -> bool:
        """It has gone."""
        return False

    def cancel(self) -> None:
        """Nobody can be told."""

    def decided(self, request: Decide, option: str | None, tool: str, *, allowed: bool) -> None:
        raise NotImplementedError(f"nothing was asked: {request.id} {option} {tool} {allowed}")

    def read(self, line: bytes) -> Fields | None:
        """None for what is no JSON object. Never raises."""
        try:
            found = msgspec.json.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def hear(self, said: Fields, now: float) -> None:
        for row, fields in _meant(self._orders.lines, said):
            if self.ended is not None:
                return
            self._take(row, fields, now)

    def _take(self, row: Line, fields: Fields, now: float) -> None:
        if row.session and is_session_id(session := wire.text_at(fields, row.session)):
            model = wire.text_at(fields, row.model)[:_NAME] if row.model else ""
            self.steps.append(Say({"type": "session", "id": session, "model": model}))
        if row.text:
            self._says(wire.text_at(fields, row.text), now)
        if row.tool and (tool := wire.text_at(fields, row.tool)[:_NAME]):
            self._begins(tool, wire.text_at(fields, row.name) if row.name else "")
        if row.tool_end and (tool := wire.text_at(fields, row.tool_end)[:_NAME]) in self._open:
            self._open.discard(tool)
            self.steps.append(Say({"type": "tool_end", "id": tool}))
        if row.input_tokens or row.output_tokens:
            self._count(wire.number_at(fields, row.input_tokens), wire.number_at(fields, row.output_tokens))
        if row.error:
            words = printable(wire.text_at(fields, row.error) or "an error without words", 500)
            status = wire.number_at(fields, row.status) if row.status else None
            self._failure = Failure(words, 0, status or 0, wire.text_at(fields, row.kind) if row.kind else "")
        if row.ends:
            stop = "" if self._failure is not None else "end_turn"
            text, before = self._text.strip(), self._before.strip()
            self.ended = Ended(stop, text, before, self._tokens, (), self._failure)

    def _says(self, text: str, now: float) -> None:
        self._text += text[: max(0, FINAL_TEXT_LIMIT - len(self._text))]
        last = self._text.rstrip().rpartition("\n")[2]
        if last and now - self._shown_at >= _SHOW_EVERY:
            self._shown_at = now
            self.steps.append(Say({"type": "progress", "text": last[-PROGRESS_LIMIT:]}))

    def _begins(self, tool: str, name: str) -> None:
        """What was said before a tool is no answer."""
        if self._text.strip():
            self._before = self._text
        self._text = ""
        if len(self._open) < MOST_OPEN:
            self._open.add(tool)
            self.steps.append(Say({"type": "tool_start", "id": tool, "name": printable(name or "a tool", 80)}))

    def _count(self, taken: int | None, given: int | None) -> None:
        usage = self._orders.usage
        if usage is UsageOf.NONE or (taken is None and given is None):
            return
        before = self._spent if usage is UsageOf.REQUESTS else (0, 0)
        self._spent = (before[0] + (taken or 0), before[1] + (given or 0))
        self._tokens = sum(self._spent)
        line: dict[str, object] = {
            "type": "usage",
            "input_tokens": self._spent[0],
            "output_tokens": self._spent[1],
        }
        if usage is UsageOf.SESSION:
            line["of"] = "session"
        self.steps.append(Say(line))


def _meant(rows: tuple[Line, ...], said: Fields) -> Iterator[tuple[Line, Fields]]:
    """Each row that fits, with what its paths are paths of: the line, or a part of it."""
    for row in rows:
        if not _fits(row.when, said):
            continue
        for fields in wire.all_in(said, row.each) if row.each else (said,):
            if _fits(row.part, fields):
                yield row, fields


def _fits(wanted: Mapping[str, str | int | bool], fields: Fields) -> bool:
    return all(wire.at(fields, path) == value for path, value in wanted.items())
