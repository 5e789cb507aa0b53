"""A tool call that a person is asked about: what it is, when it is the same, and which calls are to be asked. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import msgspec

from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable, sha256

MOST_INPUT = 1024 * 1024
"""Bytes of a call's input, as JSON, that a person is asked about: what is larger nobody reads."""

SHOWN = 4000
"""Characters of a command in a notice; the whole is shown by `agent-mailer approvals show`."""

OURS = "mcp__agent_mailer__"
"""The mail tools, as claude and codex name them: whatever a rule says, nobody is asked whether mail may be read."""

_RULE = re.compile(r"([A-Za-z_*][A-Za-z0-9_.*-]{0,199})(?:\((.*)\))?", re.DOTALL)

# What names the thing that a tool is to touch, beside its command.
_NAMING = ("file_path", "notebook_path", "path", "url", "query")

# Words in which a program says what a call is for: they differ from one try to the next.
_SAID = frozenset({"description"})

_OF_A_SERVER = "mcp__"

_BETWEEN_COMMANDS = re.compile(r"\|\||&&|[;&|\n(){}`]")


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """`input` is JSON, with its keys in order; `call_id` the program's own name of a call that is pending in a session.

    `why` are the agent's words about it.
    """

    tool: str
    input: str
    call_id: str = ""
    why: str = ""

    @property
    def digest(self) -> str:
        """The same for the same act, whatever the agent says of it: 64 hex digits."""
        found = json.loads(self.input)
        if isinstance(found, dict) and "command" in found and not self.tool.startswith(_OF_A_SERVER):
            found = {key: value for key, value in found.items() if key not in _SAID}
        text = f"{self.tool}\0{as_input(found)}"
        return sha256(text.encode()).hexdigest()

    @property
    def command(self) -> str | None:
        """A shell command. What a server's tool calls so may be anything, and says less than the rest of its input."""
        return None if self.tool.startswith(_OF_A_SERVER) else _command_in(json.loads(self.input))

    @property
    def act(self) -> str:
        """What it does, word for word: its command, or its whole input as JSON."""
        command = self.command
        return command if command is not None else _for_people(json.loads(self.input))

    @property
    def beside(self) -> str:
        """As JSON what else it says than a command that is `act`, and that its digest has: how the command is run."""
        if self.command is None:
            return ""
        found = json.loads(self.input)
        rest = {key: value for key, value in found.items() if key != "command" and key not in _SAID}
        return _for_people(rest) if rest else ""


def _command_in(found: object) -> str | None:
    given = found.get("command") if isinstance(found, dict) else None
    if isinstance(given, list) and all(isinstance(word, str) for word in given):
        return shlex.join(given)
    return given if isinstance(given, str) else None


def _for_people(given: object) -> str:
    """JSON in every script; what no terminal shows is `printable`'s to escape."""
    return json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def as_input(value: object) -> str:
    """JSON in one form: keys in order, no blanks, ASCII alone. Raises ValueError for what is no JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def call_of(tool: str, given: object, *, call_id: str = "", why: str = "") -> Call | None:
    """None where nobody can be asked about it: it is too large, or no JSON object."""
    try:
        text = as_input(given) if isinstance(given, dict) else ""
    except (ValueError, RecursionError):
        return None
    if not text or not tool or len(text) > MOST_INPUT or len(tool) > 200:
        return None
    return Call(tool, text, call_id[:200], why[:SHOWN])


def shown(call: Call, limit: int = SHOWN) -> str:
    """`Bash: git push`: one line that no terminal and no shell takes for anything else, cut with a mark. What stands
    beside a command comes before it, where no length of the command hides it.
    """
    beside = f" {_cut(call.beside, limit)}" if call.beside else ""
    return f"{printable(call.tool, 100)}{beside}: {_cut(call.act, limit)}"


def _cut(text: str, limit: int) -> str:
    cut = f" [cut: {len(text)} characters in all]" if len(text) > limit else ""
    return f"{printable(text[:limit], 12 * limit)}{cut}"


class Rule(msgspec.Struct, frozen=True):
    """One of `approve.tools`: a tool's name, or a glob; `about` a glob over what the call is about, "" = every call."""

    tool: str
    about: str = ""

    def names(self, tool: str) -> bool:
        return fnmatchcase(tool, self.tool)


def rule_of(text: str) -> Rule:
    """`Bash`, `mcp__*`, `Bash(git push *)`. Raises ConfigFault for what is none."""
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise ConfigFault(
            "bad_rule",
            f"approve.tools names {printable(text, 100)!r}, which is neither a tool nor a tool with (what it is about)",
            "agent-mailer config set approve.tools '\"Bash(git push *)\" WebFetch'",
        )
    about = (found[2] or "").strip()
    return Rule(found[1], "" if about in ("*", "**") else about)


def is_named(rules: Iterable[str], call: Call) -> bool:
    """Whether a person has to be asked: a rule fits where it fits one of the things that the call names. A command is
    taken apart, and each part looked at from every word on: `cd x && sudo git push` is `git push`, too. That is a net,
    no wall: a tool named without brackets is always asked.
    """
    named = [rule for rule in map(rule_of, rules) if rule.names(call.tool)]
    if not named or call.tool.startswith(OURS):
        return False
    if any(not rule.about for rule in named):
        return True
    texts = list(_texts(call))
    return any(_fits(text, rule.about) for rule in named for text in texts)


def _fits(text: str, about: str) -> bool:
    # `git push *` means `git push` alone as well.
    return fnmatchcase(text, about) or (about.endswith(" *") and fnmatchcase(text, about[:-2]))


def _texts(call: Call) -> Iterator[str]:
    found = json.loads(call.input)
    fields: Mapping[str, object] = found if isinstance(found, dict) else {}
    named = [value for key in _NAMING if isinstance(value := fields.get(key), str)]
    yield from named
    command = _command_in(found)
    if "command" not in fields:
        if not named:
            yield from (call.input, call.act)
        return
    if command is None:
        command = call.act
    yield command
    for part in _BETWEEN_COMMANDS.split(command):
        words = part.replace("'", " ").replace('"', " ").replace("\\", "").split()
        for start in range(min(len(words), 100)):
            yield " ".join(words[start:])
