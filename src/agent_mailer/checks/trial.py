"""A trial turn: which settings it takes over from the agent, and what its end means for a person. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent_mailer.config import Config, expand
from agent_mailer.errors import ExitCode
from agent_mailer.outcomes import Outcome

HANDLE = "agent"
SUBJECT = "trial"
WORD = "pong"
BODY = f"This is a trial of the mail and of nothing else. Answer with the one word {WORD}, then end. Change no file.\n"

TAKEN_OVER = (
    "runtime",
    "permission_mode",
    "claude_command",
    "codex_command",
    "infiniti_command",
    "model",
    "extra_args",
    "max_budget_usd",
    "config_home",
    "command",
    "command_output",
    "env",
    "first_output_timeout",
    "silence_timeout",
    "tool_timeout",
)
"""What decides how the agent program is started. Neither the project nor the mailbox nor a key of the broker."""


def trial_settings(config: Config, workdir: Path, root: Path, seconds: int) -> dict[str, object]:
    """The settings of the trial, as flags of its own workdir: one message, one attempt, `seconds` of time.

    What they name relative to the agent's `workdir` is named whole, since the trial works elsewhere. Raises ConfigFault
    for what can be no path.
    """
    plain: dict[str, object] = msgspec.to_builtins(config, builtin_types=())
    settings = {key: plain[key] for key in TAKEN_OVER if key in plain}
    for key in ("claude_command", "codex_command", "infiniti_command"):
        settings[key] = _program(str(settings[key]), workdir)
    settings["command"] = [
        _program(word, workdir) if not i else _file(word, workdir) for i, word in enumerate(config.command)
    ]
    if config.config_home:
        settings["config_home"] = str(expand(config.config_home, workdir))
    return {
        **settings,
        "address": HANDLE,
        "agent_name": HANDLE,
        "mailbox": "maildir",
        "maildir_root": str(root),
        "auto_reply": "if-silent",
        "max_retries": 0,
        "max_starts": 2,
        "max_parallel_turns": 1,
        "turn_timeout": seconds,
        "keep_transcripts": 1,
        "stop_grace": 0,
    }


def _program(word: str, workdir: Path) -> str:
    """A program named with a slash is taken from the workdir; any other from the PATH."""
    return str(workdir.absolute() / word) if "/" in word else word


def _file(word: str, workdir: Path) -> str:
    """An argument that is a file of the workdir, like the script of an interpreter."""
    try:
        return str(workdir.absolute() / word) if word and (workdir / word).is_file() else word
    except (OSError, ValueError):
        return word


class TrialReport(msgspec.Struct, frozen=True):
    """What `test-runtime --json` prints. `outcome` None = no turn came to an end; `stderr` its last lines.

    `scratch` is the folder that was kept, with the turn's whole output; `exit_code` that of the command.
    """

    exit_code: int
    runtime: str
    outcome: Outcome | None
    detail: str
    seconds: float
    answer: str | None
    stderr: tuple[str, ...]
    fix: str
    scratch: str | None = None


def exit_code_of(outcome: Outcome | None, *, answered: bool) -> ExitCode:
    if outcome is Outcome.DONE and answered:
        return ExitCode.OK
    if outcome in (Outcome.UNAVAILABLE, Outcome.LIMITED):
        return ExitCode.UNAVAILABLE
    return ExitCode.REFUSED if outcome is Outcome.SIGNED_OUT else ExitCode.FAILED


def fix_of(outcome: Outcome | None, seconds: int, transcript: str) -> str:
    """The command that mends it, where neither the program nor its probes name a better one.

    `transcript` is the folder with the turn's stdout and stderr.
    """
    match outcome:
        case Outcome.DONE:
            return f"it printed no answer: look at {transcript}/stdout"
        case Outcome.BLOCKED:
            return "agent-mailer config set permission_mode MODE (acceptEdits, bypassPermissions or plan)"
        case Outcome.TIMED_OUT:
            return f"give it more time: --timeout {seconds * 3}; or look at {transcript}/stdout"
        case Outcome.LIMITED:
            return "wait until the limit is lifted (a watcher does), or log in with another account"
        case Outcome.SIGNED_OUT:
            return "log the program in, or name its key in [env] pass: agent-mailer config edit"
        case Outcome.UNAVAILABLE:
            return "agent-mailer doctor"
        case Outcome.INTERRUPTED:
            return "run it again"
        case None:
            return "agent-mailer doctor"
        case _:
            return f"look at {transcript}/stderr and {transcript}/stdout, then: agent-mailer config edit"
