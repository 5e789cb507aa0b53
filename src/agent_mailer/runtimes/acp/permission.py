"""An agent asks whether a tool of its own may run: yes once, no once, or a person is asked.

Which tool it is says the one field that the agent fills from its own registry, by its whole text: titles of several
agents are the tool's arguments, which a mail can write. Nothing is ever allowed for good: that writes permanent rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent_mailer.approvals.calls import Call, call_of, is_named
from agent_mailer.approvals.hook import INSTEAD, Decision, carry_out, instead_of_a_refusal
from agent_mailer.approvals.hook import Step as Word
from agent_mailer.approvals.turn import TurnApprovals, read
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.names import printable
from agent_mailer.runtimes.acp import wire
from agent_mailer.runtimes.acp.descriptor import ANY_KIND, MailBy, Named
from agent_mailer.runtimes.acp.orders import Orders
from agent_mailer.runtimes.acp.wire import Fields

_CHANGING = frozenset({"edit", "delete", "move"})
_MAIL_COMMAND = re.compile(r"agent-mailer mail( [^`$;&|<>()\\\n\r]*)?")
"""Nothing in it is the shell's to run, whatever stands in the mail that it sends."""
_SAID_OF_IT = ("title", "kind", "content", "locations")


class Permission(msgspec.Struct, frozen=True):
    """`option` is the id of the agent's own choice, None where it offers none that says this."""

    tool: str
    allowed: bool
    option: str | None


def permit(orders: Orders, params: Fields) -> Permission:
    """Whatever goes wrong here, the answer is no. That a person's yes is used up is durable before it is said."""
    tool = _tool(orders.named, params)
    try:
        allowed = _may(orders, params, tool)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MailerError):
        allowed = False
    option = _option(params, "allow_once" if allowed else "reject_once")
    return Permission(tool or "a tool without a name", allowed and option is not None, option)


def _tool(named: Named | None, params: Fields) -> str:
    """Empty where the agent does not tell, or not in the form that is known of it."""
    said = "" if named is None else wire.text_at(params, named.field)
    if named is not None and named.name:
        found = re.fullmatch(named.name, said)
        said = found[1] if found else ""
    return printable(said, 200)


def _is_command(params: Fields) -> bool:
    """Of a shell's the whole text may be what a mail says."""
    return wire.text_at(params, "toolCall.kind") == "execute"


def _may(orders: Orders, params: Fields, tool: str) -> bool:
    if tool and orders.named is not None and re.fullmatch(orders.named.mail, tool) and not _is_command(params):
        return True
    if orders.mail is MailBy.COMMANDS and _MAIL_COMMAND.fullmatch(wire.text_at(params, "toolCall.rawInput.command")):
        return True
    allowed = _mode_allows(orders, wire.as_fields(params.get("toolCall")))
    if not orders.asks:
        return allowed
    directory, call = Path(orders.turn_dir), _call(params, tool)
    approvals = read(directory)
    if call is None:
        # Too large to be read by a person, or without a name that a rule could have.
        return allowed and not approvals.rules
    if allowed and not is_named(approvals.rules, call):
        return True
    return carry_out(Disk(), directory, call, _word(approvals, call)).step is Word.ALLOW


def _word(approvals: TurnApprovals, call: Call) -> Decision:
    decision = instead_of_a_refusal(approvals, call, sub_agent=False)
    if decision.step is Word.ALLOW and decision.changed:
        # The protocol has no way to put something else in its place.
        return Decision(Word.DENY, INSTEAD)
    return decision if decision.step in (Word.ALLOW, Word.DENY) else Decision(Word.DENY)


def _call(params: Fields, tool: str) -> Call | None:
    """The tool and what it is told, or, where the agent does not show that, all that it says of the call."""
    said = wire.as_fields(params.get("toolCall"))
    given = said.get("rawInput")
    if not isinstance(given, dict) or not given:
        given = {name: said[name] for name in _SAID_OF_IT if said.get(name) is not None}
    return call_of(tool, given) if tool and given else None


def _mode_allows(orders: Orders, said: Fields) -> bool:
    """By the kind of tool, and for one that changes files by where they lie."""
    if ANY_KIND in orders.allow_kinds:
        return True
    kind = wire.text_at(said, "kind")
    if kind not in orders.allow_kinds:
        return False
    if kind not in _CHANGING:
        return True
    places = wire.all_in(said, "locations")
    changes = [one for one in wire.all_in(said, "content") if one.get("type") == "diff"]
    return bool(places) and all(_lies_within(orders, wire.text_at(one, "path")) for one in (*places, *changes))


def _lies_within(orders: Orders, path: str) -> bool:
    if not path:
        return False
    real = os.path.realpath(os.path.join(orders.workdir, path))  # noqa: PTH118 - it may be no path at all
    return _below(real, orders.roots) and not _below(real, orders.kept)


def _below(path: str, folders: Sequence[str]) -> bool:
    return any(Path(path).is_relative_to(os.path.realpath(folder)) for folder in folders)


def _option(params: Fields, kind: str) -> str | None:
    """Of several that say the same the first. Never one that says it for good."""
    for one in wire.all_in(params, "options"):
        if one.get("kind") == kind and (found := wire.text_at(one, "optionId")):
            return found
    return None
