"""An agent asks before a tool of its own, in a turn in which a person is asked about some: what it hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_mailer.approvals import APPROVALS
from agent_mailer.approvals.calls import MOST_INPUT, Call, as_input
from agent_mailer.approvals.turn import Told, TurnApprovals, Word, asked_in, used_in, write
from agent_mailer.disk import Disk
from agent_mailer.runtimes.acp.descriptor import Named
from agent_mailer.runtimes.acp.orders import Orders
from agent_mailer.runtimes.acp.permission import permit

OPTIONS = [{"optionId": name, "kind": name} for name in ("allow_always", "allow_once", "reject_once")]
EDIT = {"kind": "edit", "locations": [{"path": "a.txt"}], "rawInput": {"path": "a.txt"}}
SHELL = {"kind": "execute", "rawInput": {"command": "make release"}}
RULED = TurnApprovals(rules=("edit", "bash"))
HUGE = {**EDIT, "rawInput": {"path": "x" * MOST_INPUT}}

LONG_SHELL = {**SHELL, "rawInput": {"command": "x" * MOST_INPUT}}


def told(word: Word, tool: str, given: object, **more: str) -> TurnApprovals:
    call = Call(tool, as_input(given))
    return TurnApprovals(("edit", "bash"), told=(Told("q-1", tool, call.input, call.digest, word, **more),))


class Turn:
    """The mode lets it edit in its folder, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.outbox = folder / "outbox"
        self.outbox.mkdir()
        self.orders = Orders(
            ("/bin/agent",),
            "Agent",
            str(folder),
            str(folder),
            allow_kinds=("edit",),
            roots=(str(folder),),
            named=Named("announced.title"),
            asks=True,
        )

    def ask(self, tool: str, call: dict[str, Any]) -> bool:
        permission = permit(self.orders, {"toolCall": call, "announced": {"title": tool}, "options": OPTIONS})
        assert permission.option == ("allow_once" if permission.allowed else "reject_once")
        return permission.allowed

    @property
    def asked(self) -> list[str]:
        return [call.tool for call in asked_in(self.outbox)]


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    return Turn(tmp_path)


@pytest.mark.parametrize(
    ("approvals", "tool", "call", "allowed", "asked"),
    [
        pytest.param(TurnApprovals(), "edit", EDIT, True, [], id="the mode allows it and no rule names it"),
        pytest.param(RULED, "edit", EDIT, False, ["edit"], id="a rule names what the mode allows"),
        pytest.param(RULED, "bash", SHELL, False, ["bash"], id="a rule names what the mode refuses"),
        pytest.param(TurnApprovals(refused=True), "bash", SHELL, False, ["bash"], id="all that is refused is asked"),
        pytest.param(TurnApprovals(), "bash", SHELL, False, [], id="nobody is asked about it"),
        pytest.param(TurnApprovals(), "", EDIT, True, [], id="it has no name, and there are no rules"),
        pytest.param(RULED, "", EDIT, False, [], id="it has no name by which a rule could know it"),
        pytest.param(RULED, "edit", HUGE, False, [], id="it is too large to be read by a person"),
        pytest.param(TurnApprovals(), "bash", LONG_SHELL, False, [], id="too large as well, and the mode refuses it"),
        pytest.param(TurnApprovals(), "", {"kind": "delete"}, False, [], id="it has no name, and the mode refuses it"),
        pytest.param(told(Word.DENY, "edit", EDIT["rawInput"]), "edit", EDIT, False, [], id="a person said no"),
    ],
)
def test_what_it_may_without_a_persons_yes(
    turn: Turn, approvals: TurnApprovals, tool: str, call: dict[str, Any], *, allowed: bool, asked: list[str]
) -> None:
    write(Disk(), Path(turn.orders.turn_dir), approvals)
    assert turn.ask(tool, call) is allowed
    assert turn.asked == asked


@pytest.mark.parametrize("offered", [[], OPTIONS[:1], OPTIONS[2:]])
def test_what_the_agent_offers_no_word_for_is_not_allowed(turn: Turn, offered: list[dict[str, str]]) -> None:
    """Least of all for good."""
    write(Disk(), Path(turn.orders.turn_dir), TurnApprovals())
    said = permit(turn.orders, {"toolCall": EDIT, "announced": {"title": "edit"}, "options": offered})
    assert (said.allowed, said.option) == (False, None)


def test_a_yes_is_used_up_durably_and_once(turn: Turn) -> None:
    write(Disk(), Path(turn.orders.turn_dir), told(Word.ALLOW, "bash", SHELL["rawInput"]))
    assert turn.ask("bash", SHELL)
    assert used_in(turn.outbox, ["q-1"]) == {"q-1"}
    assert not turn.ask("bash", SHELL)


@pytest.mark.parametrize(
    ("said", "other"),
    [
        ("title", "remove it"),
        ("kind", "move"),
        ("content", [{"type": "content", "content": {"type": "text", "text": "all of it"}}]),
        ("locations", [{"path": "b.txt"}]),
    ],
)
def test_where_the_input_is_not_shown_a_yes_is_for_all_that_is_said_of_the_call(
    turn: Turn, said: str, other: object
) -> None:
    call = {"kind": "delete", "title": "remove", "content": [], "locations": [{"path": "a.txt"}]}
    write(Disk(), Path(turn.orders.turn_dir), RULED)
    assert not turn.ask("edit", call)
    [asked] = asked_in(turn.outbox)
    yes = TurnApprovals(RULED.rules, told=(Told("q-1", asked.tool, asked.input, asked.digest, Word.ALLOW),))
    write(Disk(), Path(turn.orders.turn_dir), yes)
    assert not turn.ask("edit", {**call, said: other})
    assert turn.ask("edit", call)


def test_a_yes_to_something_else_runs_neither(turn: Turn) -> None:
    """The protocol has no way to put the other in its place."""
    changed = as_input({"command": "make -n release"})
    write(Disk(), Path(turn.orders.turn_dir), told(Word.ALLOW, "bash", SHELL["rawInput"], changed=changed))
    assert not turn.ask("bash", SHELL)
    assert not used_in(turn.outbox, ["q-1"])


@pytest.mark.parametrize("damaged", [None, b"", b"[]", b'{"rules": 3}'])
def test_where_nobody_can_tell_what_is_asked_nothing_is_allowed(turn: Turn, damaged: bytes | None) -> None:
    if damaged is not None:
        (Path(turn.orders.turn_dir) / APPROVALS).write_bytes(damaged)
    assert not turn.ask("edit", EDIT)
    turn.orders = msgspec.structs.replace(turn.orders, asks=False)
    assert turn.ask("edit", EDIT), "nor is it looked for where nobody is asked"


INSIDE, OUTSIDE, KEPT = {"path": "a.txt"}, {"path": "../a.txt"}, {"path": "kept/a.txt"}


@pytest.mark.parametrize(
    ("kinds", "call", "allowed"),
    [
        (("*",), {"kind": "nobody knows it"}, True),
        (("read",), {"kind": "read", "locations": [OUTSIDE]}, True),
        (("read",), {"kind": "edit", "locations": [INSIDE]}, False),
        (("read", "edit"), {"kind": "edit", "locations": [INSIDE]}, True),
        (("edit",), {"kind": "edit"}, False),
        (("edit",), {"kind": "edit", "locations": [INSIDE, OUTSIDE]}, False),
        (("edit",), {"kind": "edit", "locations": [INSIDE, {"line": 3}]}, False),
        (("edit",), {"kind": "edit", "locations": [INSIDE, KEPT]}, False),
        (("edit",), {"kind": "edit", "locations": [INSIDE], "content": [{"type": "diff", **INSIDE}]}, True),
        (
            ("edit",),
            {"kind": "edit", "locations": [INSIDE], "content": [{"type": "content"}, {"type": "diff", **OUTSIDE}]},
            False,
        ),
        (("delete", "move"), {"kind": "move", "locations": [INSIDE, OUTSIDE]}, False),
    ],
)
def test_what_the_mode_allows(turn: Turn, kinds: tuple[str, ...], call: dict[str, Any], *, allowed: bool) -> None:
    """Files are changed where it works, and nowhere in what is kept from it."""
    kept = (str(Path(turn.orders.workdir) / "kept"),)
    turn.orders = msgspec.structs.replace(turn.orders, allow_kinds=kinds, kept=kept, asks=False)
    assert turn.ask("tool", call) is allowed
