"""What of claude a turn may use: its tools by name, the settings that count, the files it leaves alone. Nearly pure.

A list of what is allowed, since every version brings tools that reach out of a turn (into other sessions, into the time
after it), and what runs is compared with it again: by the first event of each turn, which names the tools.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable
from agent_mailer.runtimes.port import Asking, Reach, RuntimeMissing

TOOLS = "agent_mailer"
"""The name under which claude knows the mail tools: `mcp__agent_mailer__reply` is one of them."""

_OURS = f"mcp__{TOOLS}__"
_FOREIGN = "mcp__"
_ALL = "default"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_SAME = frozenset({"Agent", "Task"})
"""Two names of one tool: the first is asked for, the second may be told."""

_SETTINGS_LIMIT = 1024 * 1024
_MOST_RULES = 100
_LONGEST_RULE = 500
"""All are one word of a command line: an agent that writes many must not keep the next turn from starting."""
_ANY = re.compile(r"[^A-Za-z0-9_]")
_HOOK_SECONDS = 60
_SHELL = "Bash"
_GLOB = re.compile(r"([\\*?\[\]!#{}])")
_SHOWN = 10

# The inbound socket of a session is open by default, and hooks are what approvals are made of: a project's file must
# not open the one or switch off the other.
_SETTINGS: Mapping[str, object] = {"crossSessionInbound": "refuse", "disableAllHooks": False}


class Fence(msgspec.Struct, frozen=True):
    """The tools that a turn may have. `names` None = all; `servers`: those of tool servers beside ours, too; `asks`: it
    has to show that it asks a person before it acts.
    """

    names: frozenset[str] | None
    servers: bool = False
    asks: bool = False

    def beyond(self, offered: Iterable[str]) -> tuple[str, ...]:
        """Of the tools that are offered those that are too many."""
        return tuple(name for name in offered if not self._allows(name))

    def _allows(self, name: str) -> bool:
        if name.startswith(_FOREIGN):
            return self.servers or name.startswith(_OURS)
        return self.names is None or name in self.names


def fence(tools: Sequence[str], extra: Sequence[str], *, asks: bool = False) -> Fence:
    """What `tools` allow. What the extra arguments name was allowed by hand. Raises ConfigFault for what is no name."""
    for name in tools:
        if not _NAME.fullmatch(name):
            why = f"tools names {printable(name, 60)!r}, which is no tool of claude's; rules belong into extra_args"
            raise ConfigFault("bad_tool", why, "agent-mailer config set tools 'Bash Read Edit'")
    by_hand = values_of(extra, "--tools")
    names = set(tools) if by_hand is None else set(re.split(r"[\s,]+", " ".join(by_hand)))
    if names & _SAME:
        names |= _SAME
    if values_of(extra, "--json-schema") is not None:
        names.add("StructuredOutput")
    servers = values_of(extra, "--mcp-config") is not None
    return Fence(None if _ALL in names else frozenset(names), servers, asks)


def tool_words(tools: Sequence[str], extra: Sequence[str]) -> Iterator[str]:
    """Claude adds up what it is given twice, so a choice made by hand stands alone."""
    if values_of(extra, "--tools") is None:
        yield "--tools"
        yield ",".join(tools)


def too_much(beyond: Sequence[str]) -> str:
    """One line for people about tools that are too many, with the key that allows them."""
    named = ", ".join(printable(name, 60) for name in beyond[:_SHOWN])
    key = "extra_args (--mcp-config)" if all(name.startswith(_FOREIGN) for name in beyond) else "tools"
    return (
        f"claude has more tools than it may use: {named}; to allow them name them in the key {key}: "
        f"agent-mailer config edit"
    )


def values_of(words: Sequence[str], option: str) -> list[str] | None:
    """The values of an option that takes several, each time it is given; None where it is not."""
    found: list[str] | None = None
    taking = False
    for word in words:
        if word == option or word.startswith(f"{option}="):
            found = [*(found or []), *([word.partition("=")[2]] if "=" in word else [])]
            taking = True
        elif word.startswith("-"):
            taking = False
        elif taking and found is not None:
            found.append(word)
    return found


class Settings(msgspec.Struct, frozen=True):
    """The settings of a turn as one JSON text, and the extra arguments without those that went into it."""

    text: str
    extra: tuple[str, ...]


def settings(extra: Sequence[str], workdir: Path, denied: Sequence[str], asking: Asking | None = None) -> Settings:
    """Claude takes the last `--settings` alone, so those of the extra arguments and ours become one; theirs were chosen
    by hand and win, but for the rules, and what switches off the hooks by which a person is asked. Raises
    RuntimeMissing where they cannot be read.
    """
    theirs: Mapping[str, object] = {}
    rest: list[str] = []
    words = iter(extra)
    for word in words:
        if word == "--settings" or word.startswith("--settings="):
            value = word.partition("=")[2] or next(words, "")
            theirs = _table(value, workdir)
        else:
            rest.append(word)
    permissions = theirs.get("permissions")
    permissions = permissions if isinstance(permissions, dict) else {}
    deny = [*_texts(permissions.get("deny")), *denied, *narrowed(workdir)]
    merged = {**_SETTINGS, **theirs, "permissions": {**permissions, "deny": list(dict.fromkeys(deny))}}
    if asking is not None:
        merged |= {"disableAllHooks": False, "hooks": _with_hooks(theirs.get("hooks"), asking)}
    return Settings(json.dumps(merged), tuple(rest))


def heard_hook(sign: str) -> dict[str, object]:
    """Settings of a trial start, in which a hook that is heard says `sign`."""
    command = {"type": "command", "command": f"echo {shlex.quote(json.dumps({'systemMessage': sign}))}"}
    hooks = {"SessionStart": [{"matcher": "*", "hooks": [command]}]}
    return {"disableAllHooks": False, "hooks": hooks}


def _with_hooks(theirs: object, asking: Asking) -> dict[str, object]:
    """A hook that is missing, fails or takes too long denies. Other hooks stay: of all words the narrowest counts."""
    found: dict[str, object] = dict(theirs) if isinstance(theirs, dict) else {}
    command = {"type": "command", "command": shlex.join(asking.hook), "timeout": _HOOK_SECONDS, "onFailure": "block"}
    wanted = [("PreToolUse", _matcher(asking.tools), command)] if asking.tools else []
    # The first is how each turn shows that hooks are heard: before its first event that names tools.
    wanted += [("SessionStart", "*", command), ("PermissionRequest", "*", command)]
    if asking.around:
        around = {"type": "command", "command": shlex.join(asking.around), "timeout": _HOOK_SECONDS}
        wanted += [(event, _SHELL, around) for event in ("PreToolUse", "PostToolUse", "PostToolUseFailure")]
    for event, matcher, command in wanted:
        before = found.get(event)
        found[event] = [*(before if isinstance(before, list) else ()), {"matcher": matcher, "hooks": [command]}]
    return found


def _matcher(tools: Sequence[str]) -> str:
    """A regular expression over the names of tools, from globs; every name that claude has for them."""
    names = dict.fromkeys(name for tool in tools for name in (sorted(_SAME) if tool in _SAME else (tool,)))
    if any(_ANY.search(name) for name in names):
        # Which globs its expressions have is for its versions to say: it is asked for all, and the hook decides.
        return "*"
    return "|".join(names)


def denials(reach: Reach, workdir: Path) -> Iterator[str]:
    """The rules that keep claude's file tools, and shell commands that name a path, from what is not the agent's."""
    for path in reach.hidden:
        for rule in _rules(path, workdir):
            yield f"Read({rule})"
            yield f"Edit({rule})"
    for path in (*reach.kept, workdir / ".claude/settings.json", workdir / ".claude/settings.local.json"):
        for rule in _rules(path, workdir):
            yield f"Edit({rule})"


def narrowed(workdir: Path) -> list[str]:
    """What the project's own settings forbid. They do not count themselves, since the agent can write them (hooks among
    them, which run outside of every mode); but what narrows is taken over.
    """
    found: list[str] = []
    for name in ("settings.json", "settings.local.json"):
        try:
            permissions = _object(read_regular(workdir / ".claude" / name, _SETTINGS_LIMIT)).get("permissions")
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(permissions, dict):
            found += _texts(permissions.get("deny")) + _texts(permissions.get("ask"))
    return [rule for rule in found if len(rule) <= _LONGEST_RULE][:_MOST_RULES]


def _rules(path: Path, workdir: Path) -> Iterator[str]:
    """A path as a rule has it: `//` is the root, `./` the workdir. Both, as not every name can be escaped."""
    forms = ["/" + _GLOB.sub(r"\\\1", str(path))]
    if path.is_relative_to(workdir):
        forms.append("./" + _GLOB.sub(r"\\\1", str(path.relative_to(workdir))))
    for form in forms:
        yield form
        yield f"{form}/**"


def _table(given: str, workdir: Path) -> Mapping[str, object]:
    try:
        if given.lstrip().startswith("{"):
            return _object(given.encode("utf-8", "surrogateescape"))
        return _object(read_regular(workdir / given, _SETTINGS_LIMIT, follow=True))
    except (OSError, ValueError, RecursionError) as error:
        why = f"--settings {printable(given, 100)} in extra_args cannot be read: {error}"
        raise RuntimeMissing("bad_settings", why, "agent-mailer config edit") from None


def _object(raw: bytes) -> Mapping[str, object]:
    found: object = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - what was read has the wrong shape, like any other damage
    return found


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
