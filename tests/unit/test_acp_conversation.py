"""What is said to an agent of the Agent Client Protocol, and what of its words counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_mailer.outcomes import FINAL_TEXT_LIMIT, Outcome
from agent_mailer.runtimes.acp import wire
from agent_mailer.runtimes.acp.conversation import Conversation, Decide, Say, Send
from agent_mailer.runtimes.acp.descriptor import MailBy, Named, UsageOf
from agent_mailer.runtimes.acp.orders import Ended, Orders, Staged
from agent_mailer.runtimes.acp.permission import permit
from agent_mailer.runtimes.acp.shelf import Shelf
from agent_mailer.runtimes.acp.verdict import judge, of_a_second_word, rests_on_words

RECORDED = Path(__file__).parents[1] / "fixtures" / "acp"
ORDERS = Orders(
    argv=("/bin/agent",),
    title="Agent",
    workdir="/srv/agent",
    turn_dir="/srv/agent/.agent-mailer/turns/1",
    server=("/usr/bin/python3", "-m", "tools"),
    server_env={"A": "b"},
    usage=UsageOf.PROMPT,
    roots=("/srv/agent",),
    kept=("/srv/agent/.agent-mailer",),
    named=Named("announced.title", mail="agent_mailer_[a-z_]+"),
)


class Talk:
    """A conversation of which each step is kept."""

    def __init__(self, **orders: Any) -> None:
        self.of = Conversation(msgspec.structs.replace(ORDERS, **orders), "Do it.")
        self.sent: list[dict[str, Any]] = []
        self.said: list[dict[str, Any]] = []
        self.decide: list[Decide] = []
        self.clock = 0.0
        self.of.begin()
        self.take()

    def take(self) -> None:
        steps, self.of.steps = self.of.steps, []
        for step in steps:
            match step:
                case Send(line=line):
                    self.sent.append(json.loads(line))
                case Say(fields=fields):
                    self.said.append(dict(fields))
                case Decide():
                    self.decide.append(step)

    def hear(self, **fields: Any) -> None:
        message = wire.read(json.dumps(fields).encode())
        assert message is not None
        self.clock += 10
        self.of.hear(message, self.clock)
        self.take()

    def answer(self, **result: Any) -> None:
        self.hear(id=self.sent[-1]["id"], result=result)

    def refuse(self, code: int, message: str = "no", **data: Any) -> None:
        self.hear(id=self.sent[-1]["id"], error={"code": code, "message": message, "data": data})

    def update(self, what: str, /, **fields: Any) -> None:
        self.hear(method="session/update", params={"update": {"sessionUpdate": what, **fields}})

    def initialized(self, **able: Any) -> None:
        self.answer(protocolVersion=1, agentCapabilities=able)

    def prompted(self) -> None:
        self.initialized()
        self.answer(sessionId="ses_1")

    @property
    def methods(self) -> list[str]:
        return [message["method"] for message in self.sent if "method" in message]

    @property
    def ended(self) -> Ended:
        assert self.of.ended is not None
        return self.of.ended


def test_it_offers_neither_files_nor_terminals_and_asks_for_typed_failures() -> None:
    talk = Talk()
    able = talk.sent[0]["params"]["clientCapabilities"]
    assert able["fs"] == {"readTextFile": False, "writeTextFile": False}
    assert able["terminal"] is False
    assert able["_meta"]["jetbrains"]["air"]["capabilities"] == ["sessionFailure"]
    talk.prompted()
    assert talk.methods == ["initialize", "session/new", "session/prompt"]
    server = talk.sent[1]["params"]["mcpServers"][0]
    assert server == {
        "name": "agent_mailer",
        "command": "/usr/bin/python3",
        "args": ["-m", "tools"],
        "env": [{"name": "A", "value": "b"}],
    }
    text = talk.sent[2]["params"]["prompt"][0]["text"]
    assert text.startswith("Do it.\n")
    assert "finish" in text
    for method in ("fs/read_text_file", "terminal/create", "craft/drainMidTurnQueue"):
        talk.hear(id="theirs", method=method, params={})
        assert talk.sent[-1]["error"]["code"] == -32601


def test_where_the_tools_are_not_offered_to_the_model_commands_are_named() -> None:
    talk = Talk(mail=MailBy.COMMANDS)
    talk.prompted()
    assert talk.sent[1]["params"]["mcpServers"] == []
    assert "agent-mailer mail" in talk.sent[2]["params"]["prompt"][0]["text"]


@pytest.mark.parametrize(
    ("able", "method"),
    [
        ({"loadSession": True, "sessionCapabilities": {"resume": {}}}, "session/resume"),
        ({"loadSession": True}, "session/load"),
    ],
)
def test_a_session_is_taken_up_again(able: dict[str, Any], method: str) -> None:
    talk = Talk(session="ses_0")
    talk.initialized(**able)
    assert (talk.sent[-1]["method"], talk.sent[-1]["params"]["sessionId"]) == (method, "ses_0")
    # What the session holds from before comes again, and counts for nothing.
    talk.update("agent_message_chunk", content={"type": "text", "text": "old"})
    talk.update("tool_call", toolCallId="t0", title="old")
    talk.answer()
    assert [line["id"] for line in talk.said] == ["ses_0"]
    talk.answer(stopReason="end_turn")
    assert talk.ended.text == ""


@pytest.mark.parametrize("code", [-32002, -32603, -32602, -32001])
def test_an_unknown_session_is_lost_whatever_the_code(code: int) -> None:
    talk = Talk(session="ses_0")
    talk.initialized(loadSession=True)
    talk.refuse(code)
    assert talk.of.judged is not None
    assert talk.of.judged.outcome is Outcome.SESSION_LOST


def test_a_lost_login_is_none_of_these() -> None:
    talk = Talk(session="ses_0")
    talk.initialized(loadSession=True)
    talk.refuse(-32000)
    assert talk.of.judged is not None
    assert talk.of.judged.outcome is Outcome.SIGNED_OUT
    keeps_none = Talk(session="ses_0")
    keeps_none.initialized()
    assert keeps_none.of.judged is not None
    assert keeps_none.of.judged.outcome is Outcome.SESSION_LOST


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_of_the_protocol_is_refused(version: object) -> None:
    talk = Talk()
    talk.answer(protocolVersion=version)
    assert talk.of.judged is not None
    assert talk.of.judged.outcome is Outcome.UNAVAILABLE


def test_the_mode_is_set_as_the_agent_offers_it_or_nothing_runs() -> None:
    modes = {"currentModeId": "auto", "availableModes": [{"id": "auto"}, {"id": "plan"}]}
    talk = Talk(session_mode="plan")
    talk.initialized()
    talk.answer(sessionId="ses_1", modes=modes)
    assert (talk.sent[-1]["method"], talk.sent[-1]["params"]["modeId"]) == ("session/set_mode", "plan")
    talk.answer()
    assert talk.methods[-1] == "session/prompt"

    options = [{"id": "mode", "category": "mode", "currentValue": "build", "options": [{"value": "plan"}]}]
    chosen = Talk(session_mode="plan")
    chosen.initialized()
    chosen.answer(sessionId="ses_1", configOptions=options)
    assert chosen.sent[-1]["method"] == "session/set_config_option"
    assert chosen.sent[-1]["params"] == {"sessionId": "ses_1", "configId": "mode", "value": "plan"}

    for result in ({}, {"modes": {"availableModes": [{"id": "yolo"}]}}):
        none = Talk(session_mode="plan")
        none.initialized()
        none.answer(sessionId="ses_1", **result)
        assert none.of.judged is not None
        assert none.of.judged.outcome is Outcome.UNAVAILABLE
        assert "session/prompt" not in none.methods
    refused = Talk(session_mode="plan")
    refused.initialized()
    refused.answer(sessionId="ses_1", modes=modes)
    refused.refuse(-32602, "no such mode")
    assert refused.of.judged is not None
    assert "session/prompt" not in refused.methods


def test_only_what_comes_after_the_last_tool_is_the_answer() -> None:
    talk = Talk()
    talk.prompted()
    talk.update("agent_message_chunk", content={"type": "text", "text": "I look."})
    talk.update("tool_call", toolCallId="t1", title="bash", status="pending")
    assert talk.of.in_a_tool
    talk.update("tool_call_update", toolCallId="t1", status="completed")
    assert not talk.of.in_a_tool
    talk.update("agent_message_chunk", content={"type": "text", "text": "It is "})
    talk.update("agent_message_chunk", content={"type": "text", "text": "42."})
    talk.answer(stopReason="end_turn", usage={"inputTokens": 7, "outputTokens": 3})
    assert (talk.ended.text, talk.ended.before, talk.ended.tokens) == ("It is 42.", "I look.", 10)
    kinds = [line["type"] for line in talk.said]
    assert kinds[0] == "session"
    assert [kind for kind in kinds if kind.startswith("tool")] == ["tool_start", "tool_end"]
    assert talk.said[-1] == {"type": "usage", "input_tokens": 7, "output_tokens": 3}


def test_of_words_without_end_as_much_is_kept_as_an_answer_holds() -> None:
    talk = Talk()
    talk.prompted()
    for _ in range(3):
        talk.update("agent_message_chunk", content={"type": "text", "text": "x" * 100_000})
    talk.answer(stopReason="end_turn")
    assert talk.ended.text == "x" * FINAL_TEXT_LIMIT


def test_a_typed_failure_beside_an_answer_is_a_failure() -> None:
    talk = Talk()
    talk.prompted()
    failure = {"category": "limit", "title": "Usage limit reached"}
    talk.answer(stopReason="end_turn", _meta={"jetbrains": {"air": {"sessionFailure": failure}}})
    assert talk.ended.failure is not None
    assert (talk.ended.failure.kind, talk.ended.failure.text) == ("limit", "Usage limit reached")


def _asks(talk: Talk, **call: Any) -> Decide:
    options = [
        {"optionId": "always", "kind": "allow_always"},
        {"optionId": "once", "kind": "allow_once"},
        {"optionId": "reject", "kind": "reject_once"},
    ]
    talk.hear(id=7, method="session/request_permission", params={"toolCall": call, "options": options})
    return talk.decide[-1]


def test_which_tool_asks_says_the_announcement_by_its_whole_text() -> None:
    talk = Talk()
    talk.prompted()
    talk.update("tool_call", toolCallId="t1", title="agent_mailer_reply", kind="other")
    decide = _asks(talk, toolCallId="t1", title="{}", rawInput={})
    permission = permit(ORDERS, decide.params)
    assert (permission.allowed, permission.option) == (True, "once")
    # The title of what asks is the very command, which a mail can write.
    talk.update("tool_call", toolCallId="t2", title="bash", kind="execute", rawInput={"command": "ls"})
    for title in ("agent_mailer_reply", "agent_mailer_reply; rm -rf ~"):
        command = _asks(talk, toolCallId="t2", title=title, rawInput={"command": title})
        assert wire.at(command.params, "toolCall.rawInput") == {"command": title}, "what it asks now, not what it said"
        assert (permit(ORDERS, command.params).allowed, permit(ORDERS, command.params).option) == (False, "reject")
    talk.update("tool_call", toolCallId="t3", title="agent_mailer_reply x", kind="other")
    assert not permit(ORDERS, _asks(talk, toolCallId="t3").params).allowed


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_tool_that_is_announced_when_it_has_ended_runs_no_more(status: str) -> None:
    talk = Talk()
    talk.prompted()
    talk.update("tool_call", toolCallId="t1", title="bash", status=status)
    assert not talk.of.in_a_tool
    talk.update("tool_call", toolCallId="t1", title="bash", status="in_progress")
    assert talk.of.in_a_tool
    talk.update("tool_call_update", toolCallId="t1", status=status)
    assert not talk.of.in_a_tool


def test_an_id_that_was_used_before_names_no_tool_of_before() -> None:
    """As from a model server that gives each first call of an answer the same id."""
    talk = Talk()
    talk.prompted()
    talk.update("tool_call", toolCallId="call_1", title="agent_mailer_reply", kind="other")
    talk.update("tool_call_update", toolCallId="call_1", status="completed")
    talk.update("tool_call", toolCallId="call_1", title="edit", kind="edit")
    asked = _asks(talk, toolCallId="call_1")
    assert permit(ORDERS, asked.params).allowed is False
    assert permit(ORDERS, asked.params).tool == "edit"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("tool_call", "completed"), ("tool_call",)),
        (("tool_call", "failed"), ("tool_call",)),
        (("tool_call", "completed"), ()),
        (("tool_call", "failed"), ()),
        (("tool_call", "completed", "late"), ()),
        (("completed",), ()),
        # One that was denied, of which nothing more is said.
        ((), ("tool_call",)),
    ],
)
def test_nothing_that_was_said_of_an_earlier_call_fills_in_for_a_later_one_of_its_id(
    first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    orders = msgspec.structs.replace(ORDERS, allow_kinds=("edit",))
    told = {"kind": "edit", "locations": [{"path": "a.txt"}], "rawInput": {"path": "a.txt"}}
    talk = Talk()
    talk.prompted()
    if "tool_call" in first:
        talk.update("tool_call", toolCallId="call_1", title="agent_mailer_reply", status="pending")
    talk.update("tool_call_update", toolCallId="call_1", status="in_progress", **told)
    asked = _asks(talk, toolCallId="call_1")
    assert told.items() <= asked.params["toolCall"].items()  # type: ignore[attr-defined]
    assert permit(orders, asked.params).allowed
    for status in {"completed", "failed"} & {*first}:
        talk.update("tool_call_update", toolCallId="call_1", status=status)
    if "late" in first:
        talk.update("tool_call_update", toolCallId="call_1", title="agent_mailer_reply", **told)
    for what in second:
        talk.update(what, toolCallId="call_1", title="bash")
    for said in ({}, {"kind": "edit"}, {"kind": "edit", "locations": []}):
        later = _asks(talk, toolCallId="call_1", **said)
        call = wire.as_fields(later.params["toolCall"])
        assert {name: call[name] for name in told if name in call} == {k: one for k, one in said.items() if one}
        permission = permit(orders, later.params)
        assert (permission.allowed, permission.tool) == (False, "bash" if second else "a tool without a name")


def test_nothing_is_allowed_for_good() -> None:
    params = {"toolCall": {}, "announced": {"title": "agent_mailer_reply"}}
    always = {**params, "options": [{"optionId": "always", "kind": "allow_always"}]}
    assert permit(ORDERS, always).option is None
    talk = Talk()
    talk.prompted()
    talk.hear(id=7, method="session/request_permission", params={})
    talk.of.decided(talk.decide[-1], None, "x", allowed=False)
    talk.take()
    assert talk.sent[-1] == {"jsonrpc": "2.0", "id": 7, "result": {"outcome": {"outcome": "cancelled"}}}
    talk.hear(id=3, result={"stopReason": "end_turn"})
    assert talk.ended.rejected == ("x",)


def test_edits_are_allowed_where_they_lie_in_the_folders_it_works_in(tmp_path: Path) -> None:
    orders = msgspec.structs.replace(
        ORDERS,
        workdir=str(tmp_path),
        roots=(str(tmp_path),),
        kept=(f"{tmp_path}/.agent-mailer",),
        allow_kinds=("edit",),
    )
    (tmp_path / "out").symlink_to("/etc")

    def allowed(*paths: object, kind: str = "edit", change: str = "a.txt") -> bool:
        content = [{"type": "diff", "path": change}, {"type": "content"}]
        call = {"kind": kind, "locations": [{"path": path} for path in paths], "content": content}
        return permit(orders, {"toolCall": call, "options": [{"optionId": "y", "kind": "allow_once"}]}).allowed

    assert allowed("a.txt")
    assert allowed(f"{tmp_path}/deep/a.txt")
    assert not allowed()
    assert not allowed("a.txt", "/etc/passwd")
    assert not allowed("a.txt", change="/etc/passwd")
    assert not allowed(None), "a place without a path is not the workdir"
    assert not allowed("out/passwd")
    assert not allowed("../a.txt")
    assert not allowed(".agent-mailer/config.toml")
    assert not allowed("a.txt", kind="execute")


@pytest.mark.parametrize(
    "line", [b"", b"{", b"null", b"[1]", b'{"id":true}', b'{"id":"x","result":{}}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_message_is_passed_over(line: bytes) -> None:
    assert wire.read(line) is None


def test_a_turn_that_is_to_end_allows_nothing_any_more() -> None:
    """As the protocol wants it: what waits for a word when the prompt is cancelled is called off."""
    talk = Talk()
    talk.prompted()
    talk.of.cancel()
    talk.take()
    options = [{"optionId": "once", "kind": "allow_once"}]
    call = {"toolCallId": "t1", "title": "agent_mailer_send"}
    talk.hear(id=7, method="session/request_permission", params={"toolCall": call, "options": options})
    assert talk.decide == []
    assert talk.sent[-1] == {"jsonrpc": "2.0", "id": 7, "result": {"outcome": {"outcome": "cancelled"}}}


def words(text: str) -> dict[str, Any]:
    return {"content": {"type": "text", "text": text}}


def test_a_prompt_is_called_off_while_it_is_worked_on_and_at_no_other_time() -> None:
    talk = Talk()
    talk.of.cancel()
    talk.take()
    assert talk.methods == ["initialize"]
    talk = Talk()
    talk.prompted()
    talk.of.cancel()
    talk.take()
    assert talk.sent[-1] == {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": "ses_1"}}
    for end in ({"stopReason": "end_turn"}, None):
        talk = Talk()
        talk.prompted()
        talk.answer(**end) if end else talk.refuse(-32603)
        talk.of.cancel()
        talk.take()
        assert "session/cancel" not in talk.methods
        assert talk.of.over


def test_what_an_older_session_holds_and_what_comes_when_it_is_over_counts_for_nothing() -> None:
    talk = Talk(session="ses_0")
    talk.initialized(loadSession=True)
    talk.update("agent_message_chunk", **words("of last week"))
    talk.update("tool_call", toolCallId="old", title="bash", status="pending")
    talk.answer()
    assert not talk.of.in_a_tool
    asked = talk.sent[-1]["id"]
    talk.update("agent_message_chunk", **words("now"))
    talk.answer(stopReason="end_turn")
    ended = talk.ended
    talk.update("agent_message_chunk", **words("too late"))
    talk.update("tool_call", toolCallId="late", title="bash", status="pending")
    talk.hear(id=asked, result={"stopReason": "refusal"})
    assert (talk.ended, talk.ended.text, talk.of.in_a_tool) == (ended, "now", False)


def test_who_refuses_to_begin_is_unavailable_in_its_own_words() -> None:
    talk = Talk()
    talk.refuse(-32603, "no such model")
    assert talk.of.judged is not None
    assert talk.of.judged.outcome is Outcome.UNAVAILABLE
    assert "no such model" in talk.of.judged.detail
    assert talk.methods == ["initialize"]


@pytest.mark.parametrize("session", ["", "../x", "two words", None])
def test_what_names_no_session_is_given_no_prompt(session: object) -> None:
    talk = Talk()
    talk.initialized()
    talk.answer(sessionId=session)
    assert talk.of.judged is not None
    assert talk.of.judged.outcome is Outcome.UNAVAILABLE
    assert talk.methods == ["initialize", "session/new"]


@pytest.mark.parametrize("code", [-32603, wire.AUTHENTICATE])
def test_who_begins_no_session_is_no_messages_fault(code: int) -> None:
    talk = Talk()
    talk.initialized()
    talk.refuse(code, "no room")
    assert talk.of.judged is not None
    expected = Outcome.SIGNED_OUT if code == wire.AUTHENTICATE else Outcome.UNAVAILABLE
    assert (talk.of.judged.outcome, "no room" in talk.of.judged.detail) == (expected, True)


@pytest.mark.parametrize(
    "told",
    [
        {"models": {"currentModelId": "m-1"}},
        {"configOptions": [{"id": "mo", "category": "model", "currentValue": "m-1"}]},
        {
            "models": {"currentModelId": "m-1"},
            "configOptions": [{"id": "mo", "category": "model", "currentValue": "x"}],
        },
    ],
)
def test_which_model_works_is_known_by_either_of_its_places(told: dict[str, Any]) -> None:
    talk = Talk()
    talk.initialized()
    talk.answer(sessionId="ses_1", **told)
    assert talk.said[0] == {"type": "session", "id": "ses_1", "model": "m-1"}


def test_odd_updates_do_no_harm() -> None:
    talk = Talk()
    talk.prompted()
    odd: tuple[Any, ...] = (
        None,
        [],
        "x",
        {"sessionUpdate": 3},
        {"sessionUpdate": "tool_call"},
        {"sessionUpdate": "tool_call_update"},
    )
    for update in odd:
        talk.hear(method="session/update", params={"update": update})
    talk.hear(method="session/update")
    talk.hear(id=99, result={})
    assert not talk.of.over


def test_an_allowed_command_of_opencode_as_recorded() -> None:
    """What opencode 1.18.33 said on one shell command, in its order."""
    talk = Talk()
    for line in (RECORDED / "opencode-shell.jsonl").read_bytes().splitlines():
        message = wire.read(line)
        assert message is not None
        talk.of.hear(message, 0.0)
        talk.take()
    (decide,) = talk.decide
    permission = permit(ORDERS, decide.params)
    assert (permission.tool, permission.allowed, permission.option) == ("bash", False, "reject")
    assert (talk.ended.stop, talk.ended.text, talk.ended.tokens) == ("end_turn", "Did it.", 120)


def test_where_mail_goes_by_commands_such_a_command_is_allowed_and_nothing_beside_it() -> None:
    orders = msgspec.structs.replace(ORDERS, mail=MailBy.COMMANDS, named=None)

    def allowed(command: str, orders: Orders = orders) -> bool:
        call = {"kind": "execute", "rawInput": {"command": command}}
        return permit(orders, {"toolCall": call, "options": [{"optionId": "y", "kind": "allow_once"}]}).allowed

    assert allowed("agent-mailer mail finish")
    assert allowed('agent-mailer mail reply --body "All of it is done."')
    for more in ("; id", "&& id", "| id", "$(id)", "`id`", "> ~/.bashrc", "\nid"):
        assert not allowed(f"agent-mailer mail finish {more}"), more
    assert not allowed("agent-mailer approve x")
    assert not allowed("agent-mailer mailx")
    assert not allowed("agent-mailer mail finish", ORDERS)


def test_a_reply_of_gemini_as_recorded() -> None:
    """What gemini 0.61.0 said on one mail tool: its id begins with the name, its title is for people."""
    orders = msgspec.structs.replace(
        ORDERS, named=Named("toolCall.toolCallId", "([A-Za-z0-9_-]+?)__.*", "mcp_agent_mailer_[a-z_]+")
    )
    talk = Talk()
    for line in (RECORDED / "gemini-reply.jsonl").read_bytes().splitlines():
        message = wire.read(line)
        assert message is not None
        talk.of.hear(message, 0.0)
        talk.take()
    (decide,) = talk.decide
    permission = permit(orders, decide.params)
    assert (permission.tool, permission.option) == ("mcp_agent_mailer_reply", "proceed_once")
    assert (talk.ended.stop, talk.ended.text, talk.ended.tokens) == ("end_turn", "Sent.", 240)


@pytest.mark.parametrize(("what", "doubted"), [("cut", True), ("context", False)])
def test_kimi_with_a_failing_provider_as_recorded(tmp_path: Path, what: str, *, doubted: bool) -> None:
    """What kimi 2.1.0 said: the halves of a stream that was cut ten times, or that it cannot make room."""
    described = Shelf({}, tmp_path).find("kimi").descriptor
    talk = Talk(usage=described.usage, session_mode="yolo")
    for line in (RECORDED / f"kimi-{what}.jsonl").read_bytes().splitlines():
        message = wire.read(line)
        assert message is not None
        talk.of.hear(message, 0.0)
        talk.take()
    ended = talk.ended
    assert ended.stop == "end_turn"
    assert ended.text
    assert rests_on_words(ended, Staged(), described.answers) is doubted
    if doubted:
        assert talk.of.ask_again("Was that all?")
        talk.take()
        assert (talk.methods[-1], talk.of.over) == ("session/prompt", False)
        assert "Was that all?" in talk.sent[-1]["params"]["prompt"][0]["text"]
        talk.update("agent_message_chunk", content={"type": "text", "text": "half of an"})
        talk.answer(stopReason="end_turn")
        verdict = of_a_second_word(ended, talk.ended, Staged())
        assert talk.ended.text == "half of an"
    else:
        verdict = judge(ended, Staged(), resumed=False, answers=described.answers)
    assert verdict is not None
    assert verdict.outcome is Outcome.FAILED


def test_words_before_a_tool_that_was_not_announced_are_no_answer() -> None:
    talk = Talk()
    talk.prompted()
    talk.update("agent_message_chunk", content={"type": "text", "text": "I send it."})
    talk.update("tool_call_update", toolCallId="t1", status="completed")
    talk.answer(stopReason="end_turn")
    assert (talk.ended.text, talk.ended.before) == ("", "I send it.")


@pytest.mark.parametrize("said", ["", "\n"])
@pytest.mark.parametrize("how", ["tool_call", "tool_call_update"])
def test_an_answer_before_several_tools_in_a_row_is_the_answer_still(said: str, how: str) -> None:
    """As of an agent that ticks off its list of tasks before it ends its turn."""
    talk = Talk()
    talk.prompted()
    for name, text in (("t1", "I look."), ("t2", "It is 42."), ("t3", said), ("t4", said)):
        talk.update("agent_message_chunk", content={"type": "text", "text": text})
        talk.update(how, toolCallId=name, status="completed")
    talk.answer(stopReason="end_turn")
    assert (talk.ended.text, talk.ended.before) == ("", "It is 42.")
    assert judge(talk.ended, Staged(finished=True), resumed=False).text == "It is 42."


def test_who_is_asked_whether_that_was_all_and_says_so_without_a_word_has_given_its_answer_before() -> None:
    """And what it had said before it looked is none, the first time or the second."""
    talk = Talk()
    talk.prompted()
    talk.update("agent_message_chunk", content={"type": "text", "text": "Let me look."})
    talk.update("tool_call", toolCallId="t1", status="completed")
    talk.update("agent_message_chunk", content={"type": "text", "text": "It is 42."})
    talk.answer(stopReason="end_turn")
    said = talk.ended
    assert talk.of.ask_again("Was that all?")
    talk.take()
    talk.update("tool_call", toolCallId="t2", title="finish", status="completed")
    talk.answer(stopReason="end_turn")
    verdict = of_a_second_word(said, talk.ended, Staged(finished=True))
    assert verdict is not None
    assert (verdict.outcome, verdict.text) == (Outcome.DONE, "It is 42.")


def test_a_shell_command_is_no_mail_tool_whatever_it_is_called() -> None:
    call = {"toolCallId": "t1", "kind": "execute", "title": "agent_mailer_reply"}
    params = {"toolCall": call, "announced": call, "options": [{"optionId": "y", "kind": "allow_once"}]}
    assert not permit(ORDERS, params).allowed


def test_tokens_that_are_told_beside_words_are_added_up() -> None:
    """As qwen does: of each request, on a chunk without text."""
    talk = Talk(usage=UsageOf.REQUESTS)
    talk.prompted()
    for _ in range(2):
        usage = {"inputTokens": 10, "outputTokens": 2}
        talk.update("agent_message_chunk", content={"type": "text", "text": ""}, _meta={"usage": usage})
    talk.answer(stopReason="end_turn")
    assert talk.ended.tokens == 24
    assert talk.said[-1] == {"type": "usage", "input_tokens": 20, "output_tokens": 4}
