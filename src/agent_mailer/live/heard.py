"""What a program's hook is told, and whether anybody sits there. Pure.

Both programs give a hook one JSON object on its standard input, with the same names: `session_id`, `hook_event_name`
and, where the person has typed something, `prompt` (seen with Claude Code 2.1.332 and Codex 0.171.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from agent_mailer.names import is_session_id
from agent_mailer.turn_tools.commands import TURN_DIR


class Program(StrEnum):
    """Whose plugin it is."""

    CLAUDE = "claude"
    CODEX = "codex"


class Moment(StrEnum):
    """When a hook is called, in the programs' words."""

    BEGINS = "SessionStart"
    PROMPT = "UserPromptSubmit"
    RESTS = "Stop"
    ENDS = "SessionEnd"


class Heard(msgspec.Struct, frozen=True):
    """A hook's call. `prompt` is empty but at PROMPT."""

    session: str
    moment: Moment
    prompt: str = ""


class _Told(msgspec.Struct):
    session_id: str
    hook_event_name: Moment
    prompt: str = ""


def heard(data: bytes) -> Heard | None:
    """None for what is no call of ours: a program of another version may say other things."""
    try:
        told = msgspec.json.decode(data, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not is_session_id(told.session_id):
        return None
    return Heard(told.session_id, told.hook_event_name, told.prompt)


def somebody_sits_there(program: Program, environ: Mapping[str, str]) -> bool:
    """Whether a person can see what a ring begins: not in a turn of an agent, and not in a headless run.

    Of a headless claude the hook would be waited for, as long as nobody writes. Codex says nothing of it here: there
    it shows in who has called the hook.
    """
    if environ.get(TURN_DIR):
        return False
    if program is Program.CODEX:
        return True
    return environ.get("CLAUDE_CODE_ENTRYPOINT") == "cli" and environ.get("CLAUDE_CODE_SESSION_ATTENDED") != "0"
