"""One turn's talk with an agent in the Agent Client Protocol: what is said to it and what of its words counts. Pure.

It is fed with the agent's lines and says what is to be done; who reads and writes is the bridge. It offers the agent
neither files nor terminals: what the agent touches, its own process touches, inside of whatever confines the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from agent_mailer.names import is_session_id, printable
from agent_mailer.outcomes import FINAL_TEXT_LIMIT, MOST_OPEN, PROGRESS_LIMIT, Outcome
from agent_mailer.runtimes.acp import wire
from agent_mailer.runtimes.acp.descriptor import SERVER, MailBy, UsageOf
from agent_mailer.runtimes.acp.orders import Ended, Failure, Orders, Verdict
from agent_mailer.runtimes.acp.wire import Answer, Fields, Message, Notice, Refusal, Request

_MOST_TOOLS = 2000
_SHOW_EVERY = 1.0
_NAME = 200

FINISH = {
    MailBy.MCP: "As the very last thing of this turn call the tool `finish` of the server agent_mailer (or run "
    "`agent-mailer mail finish`): a turn that ends without it may count as not done.",
    MailBy.COMMANDS: "You have no mail tools: use the command `agent-mailer mail` in a shell. As the very last thing "
    "of this turn run `agent-mailer mail finish`: a turn that ends without it may count as not done.",
}


class Send(msgspec.Struct, frozen=True):
    """To the agent."""

    line: bytes


class HangUp(msgspec.Struct, frozen=True):
    """To the agent: nothing more is said to it."""


class Say(msgspec.Struct, frozen=True):
    """In our own lines, to whoever follows the turn."""

    fields: Mapping[str, object]


class Decide(msgspec.Struct, frozen=True):
    """May it? `params` are its request's, with what it said of the tool before, and `announced`: what it said first."""

    id: int | str
    params: Fields


Step = Send | HangUp | Say | Decide


class Conversation:
    """`steps` are to be done in order, after each call. `judged` is set where the turn was over before its prompt was
    answered, `ended` where the agent answered it.
    """

    cancels = True
    """The agent can be told to end its turn."""

    def __init__(self, orders: Orders, prompt: str) -> None:
        self._orders = orders
        self._prompt = prompt
        self._next_id = 0
        self._waits: dict[int, Callable[[Answer | Refusal], None]] = {}
        self.steps: list[Step] = []
        self.judged: Verdict | None = None
        self.ended: Ended | None = None
        self.prompted = False
        self._ends = False
        self._session = ""
        self._text = self._before = ""
        self._tools: dict[str, Fields] = {}
        self._announced: dict[str, Fields] = {}
        self._open: set[str] = set()
        self._rejected: list[str] = []
        self._shown_at = 0.0
        self._now = 0.0
        self._tokens: int | None = None
        self._sum = (0, 0)

    @property
    def over(self) -> bool:
        return self.judged is not None or self.ended is not None

    @property
    def in_a_tool(self) -> bool:
        return bool(self._open)

    def read(self, line: bytes) -> Message | None:
        """None for what is no message of the protocol. Never raises."""
        return wire.read(line)

    def begin(self) -> None:
        # The two adapters that know this word answer a failed prompt with a typed failure, not with its text.
        typed = {"jetbrains": {"air": {"version": 1, "capabilities": ["sessionFailure"]}}}
        files = {"readTextFile": False, "writeTextFile": False}
        params = {
            "protocolVersion": wire.VERSION,
            "clientCapabilities": {"fs": files, "terminal": False, "_meta": typed},
            "clientInfo": {"name": "agent-mailer", "title": "agent-mailer", "version": "1"},
        }
        self._ask("initialize", params, self._initialized)

    def cancel(self) -> None:
        """The turn is to end: from now on nothing is allowed, and no person's yes is used up."""
        self._ends = True
        if self.prompted and not self.over:
            self.steps.append(Send(wire.notice("session/cancel", {"sessionId": self._session})))

    def hear(self, message: Message, now: float) -> None:
        self._now = now
        match message:
            case Request():
                self._asked(message)
            case Notice(method="session/update", params=params):
                # Before the prompt is out it is what an older session holds.
                if self.prompted and not self.over:
                    self._update(wire.as_fields(params.get("update")))
            case Answer() | Refusal():
                waiting = self._waits.pop(message.id, None)
                if waiting is not None and not self.over:
                    waiting(message)

    def decided(self, request: Decide, option: str | None, tool: str, *, allowed: bool) -> None:
        """`option` is the id of what was chosen; None = nothing that was offered says it, and the call is off."""
        if not allowed:
            self._rejected.append(tool)
        chosen = {"outcome": "cancelled"} if option is None else {"outcome": "selected", "optionId": option}
        self.steps.append(Send(wire.answer(request.id, {"outcome": chosen})))

    # What we ask, in its order.

    def _ask(self, method: str, params: Fields, then: Callable[[Answer | Refusal], None]) -> None:
        self._next_id += 1
        self._waits[self._next_id] = then
        self.steps.append(Send(wire.request(self._next_id, method, params)))

    def _initialized(self, said: Answer | Refusal) -> None:
        if isinstance(said, Refusal):
            return self._give_up(said, Outcome.UNAVAILABLE)
        version = said.result.get("protocolVersion")
        if version != wire.VERSION:
            why = (
                f"{self._orders.title} speaks version {printable(str(version), 20)} of the protocol, not {wire.VERSION}"
            )
            self.judged = Verdict(Outcome.UNAVAILABLE, why)
            return None
        able = wire.as_fields(said.result.get("agentCapabilities"))
        old = self._orders.session
        server = {
            "name": SERVER,
            "command": self._orders.server[0] if self._orders.server else "",
            "args": list(self._orders.server[1:]),
            "env": [{"name": name, "value": value} for name, value in self._orders.server_env.items()],
        }
        servers = [server] if self._orders.mail is MailBy.MCP and self._orders.server else []
        params: dict[str, object] = {"cwd": self._orders.workdir, "mcpServers": servers}
        if old is None:
            return self._ask("session/new", params, self._there)
        params["sessionId"] = old
        if wire.at(able, "sessionCapabilities.resume") not in (None, False):
            return self._ask("session/resume", params, self._resumed)
        if able.get("loadSession") is True:
            return self._ask("session/load", params, self._resumed)
        self.judged = Verdict(Outcome.SESSION_LOST, f"{self._orders.title} takes up no session again")
        return None

    def _resumed(self, said: Answer | Refusal) -> None:
        if isinstance(said, Refusal):
            # An unknown one is told by four different codes.
            return self._give_up(said, Outcome.SESSION_LOST)
        return self._has_session(self._orders.session or "", said.result)

    def _there(self, said: Answer | Refusal) -> None:
        if isinstance(said, Refusal):
            return self._give_up(said, Outcome.UNAVAILABLE)
        session = wire.text_at(said.result, "sessionId")
        if not is_session_id(session):
            self.judged = Verdict(Outcome.UNAVAILABLE, f"{self._orders.title} names no session that can be resumed")
            return None
        return self._has_session(session, said.result)

    def _has_session(self, session: str, result: Fields) -> None:
        self._session = session
        model = wire.text_at(result, "models.currentModelId") or _current(result, "model")
        self.steps.append(Say({"type": "session", "id": session, "model": model[:_NAME]}))
        wanted = self._orders.session_mode
        if not wanted or wanted in (wire.text_at(result, "modes.currentModeId"), _current(result, "mode")):
            return self._say_the_prompt()
        named = {"sessionId": session}
        if wanted in (offered := _modes(result)):
            return self._ask("session/set_mode", {**named, "modeId": wanted}, self._mode_set)
        option = _option(result, "mode")
        if wanted in (values := [wire.text_at(one, "value") for one in wire.all_in(option, "options")]):
            params = {**named, "configId": wire.text_at(option, "id"), "value": wanted}
            return self._ask("session/set_config_option", params, self._mode_set)
        there = printable(", ".join([*offered, *values]) or "none", _NAME)
        self.judged = Verdict(
            Outcome.UNAVAILABLE,
            f"{self._orders.title} offers no mode {wanted!r}, but: {there}; no turn runs in another",
        )
        return None

    def _mode_set(self, said: Answer | Refusal) -> None:
        if isinstance(said, Refusal):
            return self._give_up(said, Outcome.UNAVAILABLE)
        return self._say_the_prompt()

    def _say_the_prompt(self) -> None:
        self._say(self._prompt)
        self.prompted = True

    def ask_again(self, text: str, /) -> bool:
        self.ended, self._text, self._before = None, "", ""
        self._say(text)
        return True

    def _say(self, text: str) -> None:
        whole = f"{text.rstrip()}\n\n{FINISH[self._orders.mail]}\n"
        params = {"sessionId": self._session, "prompt": [{"type": "text", "text": whole}]}
        self._ask("session/prompt", params, self._answered)

    def _give_up(self, said: Refusal, outcome: Outcome) -> None:
        if said.code == wire.AUTHENTICATE:
            outcome = Outcome.SIGNED_OUT
        words = said.message or f"error {said.code}"
        self.judged = Verdict(outcome, printable(f"{self._orders.title}: {words}", 300))

    def _answered(self, said: Answer | Refusal) -> None:
        failure: Failure | None
        if isinstance(said, Refusal):
            failure, stop = _failure(said), ""
        else:
            failure, stop = _typed_failure(said.result), wire.text_at(said.result, "stopReason")
            self._count(said.result)
        self.ended = Ended(
            stop, self._text.strip(), self._before.strip(), self._tokens, tuple(self._rejected[:20]), failure
        )

    # What we hear.

    def _asked(self, request: Request) -> None:
        if request.method != "session/request_permission":
            # Files and terminals were not offered, and nothing else is.
            text = f"agent-mailer does not offer {printable(request.method, 80)}"
            self.steps.append(Send(wire.refusal(request.id, wire.NOT_OFFERED, text)))
            return
        if self._ends or self.over:
            self.steps.append(Send(wire.answer(request.id, {"outcome": {"outcome": "cancelled"}})))
            return
        given = wire.as_fields(request.params.get("toolCall"))
        name = wire.text_at(given, "toolCallId")
        told = {key: value for key, value in given.items() if value not in (None, [], "")}
        call = {**self._tools.get(name, {}), **told}
        params = {**request.params, "toolCall": call, "announced": self._announced.get(name, {})}
        self.steps.append(Decide(request.id, params))

    def _update(self, update: Fields) -> None:
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                if self._orders.usage is UsageOf.REQUESTS:
                    self._add(wire.as_fields(wire.at(update, "_meta.usage")))
                text = wire.text_at(update, "content.text")
                room = FINAL_TEXT_LIMIT - len(self._text)
                self._text += text[: max(0, room)]
                self._show(self._text.rstrip().rpartition("\n")[2])
            case "agent_thought_chunk" | "plan":
                self._show("thinks")
            case "tool_call":
                self._tool(update)
            case "tool_call_update":
                self._tool_goes_on(update)

    def _show(self, text: str) -> None:
        """For people, and so that silence means something: at most one line a second."""
        if self._now - self._shown_at >= _SHOW_EVERY and text:
            self._shown_at = self._now
            self.steps.append(Say({"type": "progress", "text": text[-PROGRESS_LIMIT:]}))

    def _tool(self, update: Fields) -> None:
        name = wire.text_at(update, "toolCallId")
        if not name:
            return
        self._begin_anew()
        if name not in self._open:
            # Some model servers give several calls the same id: what was said of an earlier one is not said of this.
            self._tools.pop(name, None)
            self._announced.pop(name, None)
        self._remember(name, update)
        runs = update.get("status") not in ("completed", "failed")
        if runs and name not in self._open and len(self._open) < MOST_OPEN:
            self._open.add(name)
            shown = wire.text_at(update, "title") or wire.text_at(update, "kind") or "a tool"
            self.steps.append(Say({"type": "tool_start", "id": name[:_NAME], "name": printable(shown, 80)}))

    def _begin_anew(self) -> None:
        """What was said before a tool is no answer."""
        if self._text.strip():
            self._before = self._text
        self._text = ""

    def _tool_goes_on(self, update: Fields) -> None:
        name = wire.text_at(update, "toolCallId")
        if name not in self._announced:
            # One that it asked about is not announced by every agent.
            self._begin_anew()
        self._remember(name, update)
        if update.get("status") in ("completed", "failed"):
            if name in self._open:
                self._open.discard(name)
                self.steps.append(Say({"type": "tool_end", "id": name[:_NAME]}))
        elif name in self._open:
            self._show(f"{wire.text_at(self._tools.get(name, {}), 'title')[:_NAME]} goes on")

    def _remember(self, name: str, update: Fields) -> None:
        """What it said of a tool before it asks: its request may hold the tool's id alone.

        Of one that has ended nothing is kept: the next of that id may not be announced.
        """
        told = {key: value for key, value in update.items() if value is not None and key not in _HEAVY}
        self._announced.setdefault(name, told)
        self._tools[name] = {**self._tools.get(name, {}), **told}
        if update.get("status") in ("completed", "failed") or not self._announced[name]:
            self._tools[name], self._announced[name] = {}, {}
        while len(self._tools) > _MOST_TOOLS:
            oldest = next(iter(self._tools))
            del self._tools[oldest], self._announced[oldest]

    def _add(self, usage: Fields) -> None:
        """One more request of this turn."""
        taken, given = (_first(usage, *names) for names in _COUNTS)
        if taken is None and given is None:
            return
        self._sum = (self._sum[0] + (taken or 0), self._sum[1] + (given or 0))
        self._tokens = sum(self._sum)
        self.steps.append(Say({"type": "usage", "input_tokens": self._sum[0], "output_tokens": self._sum[1]}))

    def _count(self, result: Fields) -> None:
        """Tokens, where the agent counts them at the end and its descriptor says what of."""
        usage = wire.as_fields(result.get("usage")) or wire.as_fields(wire.at(result, "_meta.quota.token_count"))
        taken, given = (_first(usage, *names) for names in _COUNTS)
        if self._orders.usage in (UsageOf.NONE, UsageOf.REQUESTS) or (taken is None and given is None):
            return
        line: dict[str, object] = {"type": "usage", "input_tokens": taken or 0, "output_tokens": given or 0}
        if self._orders.usage is UsageOf.SESSION:
            line["of"] = "session"
        self._tokens = (taken or 0) + (given or 0)
        self.steps.append(Say(line))


_COUNTS = (("inputTokens", "input_tokens"), ("outputTokens", "output_tokens"))
_HEAVY = frozenset({"content", "rawOutput", "sessionUpdate"})


def _first(usage: Fields, *names: str) -> int | None:
    return next((found for name in names if (found := wire.number_at(usage, name)) is not None), None)


def _modes(result: Fields) -> list[str]:
    return [wire.text_at(one, "id") for one in wire.all_in(wire.as_fields(result.get("modes")), "availableModes")]


def _option(result: Fields, category: str) -> Fields:
    """A choice that the agent offers beside its modes."""
    found = wire.all_in(result, "configOptions")
    return next((one for one in found if category in (one.get("category"), one.get("id"))), {})


def _current(result: Fields, category: str) -> str:
    return wire.text_at(_option(result, category), "currentValue")


def _typed_failure(result: Fields) -> Failure | None:
    found = wire.at(result, "_meta.jetbrains.air.sessionFailure")
    if not isinstance(found, dict):
        return None
    return Failure(wire.text_at(found, "title"), kind=wire.text_at(found, "category"))


def _failure(said: Refusal) -> Failure:
    """What is typed in the error: agents have their own names for it."""
    data = said.data
    told = data if isinstance(data, str) else next(filter(None, (wire.text_at(data, name) for name in _WORDS)), "")
    status = next(filter(None, (wire.number_at(data, name) for name in _STATUSES)), 0)
    kind = next(filter(None, (wire.text_at(data, name) for name in _KINDS)), "")
    general = said.message.strip().lower() in ("", "internal error")
    text = (told or said.message) if general else f"{said.message}: {told}" if told else said.message
    return Failure(text, said.code, status or 0, kind)


_WORDS = ("details", "message", "error", "errorMessage", "error.message")
_STATUSES = ("statusCode", "status", "httpStatus", "errorData.statusCode", "error.statusCode", "error.status")
_KINDS = ("errorKind", "errorName", "codexErrorInfo", "error.name")
