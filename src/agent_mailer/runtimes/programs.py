"""What every adapter does with its program: its environment, finding it, reading its lines, saying how it ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from agent_mailer.errors import ConfigFault, quoted
from agent_mailer.names import printable, shown_path
from agent_mailer.outcomes import Exit
from agent_mailer.process.output import tail_text
from agent_mailer.runtimes.port import RuntimeMissing, TurnRequest

_STDERR_LOOK = 8 * 1024
_DETAIL_LIMIT = 300
_MOST = 1e18
_FIRST_LINE = 256
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def find_program(name: str, workdir: Path, env: Mapping[str, str], key: str) -> Path:
    """The absolute path of the program `name`, as config key `key` has it. Raises RuntimeMissing.

    A name with a slash is taken from the workdir; another is looked up as the agent would, in the PATH of `env`.
    """
    fix = f"agent-mailer config set {key} ..."
    if not name:
        raise RuntimeMissing("runtime_missing", f"no {key} is configured for this agent", fix)
    if "/" in name:
        program = workdir.absolute() / name
        if not program.exists():
            raise RuntimeMissing("runtime_missing", f"the command {program} does not exist", fix)
    else:
        path = env.get("PATH", os.defpath)
        found = shutil.which(name, path=path) or shutil.which(name, mode=os.F_OK, path=path)
        if found is None:
            mend = f"install {name}, or name it with its whole path: {fix}"
            raise RuntimeMissing("runtime_missing", f"the command {name} is not in PATH ({shown_path(path)})", mend)
        program = Path(found).absolute()
    if not program.is_file():
        what = "is a directory" if program.is_dir() else "is no program"
        raise RuntimeMissing("runtime_is_directory", f"the command {program} {what}", fix)
    if not os.access(program, os.X_OK):
        raise RuntimeMissing(
            "runtime_not_executable", f"the command {program} is not executable", f"chmod +x {quoted(program)}"
        )
    return program


def with_interpreter(program: Path, workdir: Path, env: Mapping[str, str]) -> Path:
    """The same program, which is started as it is: what a script names is there. Raises RuntimeMissing."""
    if lacks := _lacks_interpreter(program, workdir, env):
        mend = f"install it, or change the first line of {program}"
        raise RuntimeMissing("interpreter_missing", f"the command {program} needs {lacks}, which is not there", mend)
    return program


def _lacks_interpreter(program: Path, workdir: Path, env: Mapping[str, str]) -> str:
    """What the `#!` line of a script names and is not to be had: a program of npm without its node, say."""
    try:
        with program.open("rb") as script:
            line, end, _ = script.read(_FIRST_LINE).partition(b"\n")
    except OSError:
        # What can be executed need not be readable.
        return ""
    words = [word for word in os.fsdecode(line[2:]).replace("\t", " ").split(" ") if word]
    if not line.startswith(b"#!") or not end or not words:
        return ""
    interpreter, *given = words
    if not os.access(workdir / interpreter, os.X_OK):
        return printable(interpreter, 200)
    given = given[1:] if given[:1] == ["-S"] else given
    plain = bool(given) and not given[0].startswith("-") and "=" not in given[0]
    path = env.get("PATH", os.defpath)
    if Path(interpreter).name == "env" and plain and not shutil.which(given[0], path=path):
        return f"{printable(given[0], 200)} in PATH ({path})"
    return ""


def as_uuid(session_id: str) -> str:
    """A session's id as the programs give it; of any other text a UUID that no session has.

    A program takes another text for a title, an option, or a new session.
    """
    return session_id if _UUID.fullmatch(session_id) else str(uuid.uuid5(uuid.NAMESPACE_OID, session_id))


Fields = Mapping[str, object]


def typed_line(line: bytes) -> tuple[str, Fields] | None:
    """Type and fields of an output line that is a JSON object with a `type`; None for any other. Never raises."""
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    kind = fields.get("type") if isinstance(fields, dict) else None
    return (kind, fields) if isinstance(kind, str) else None


def text_in(fields: Fields, name: str) -> str:
    """Empty where it is no text."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def amount_in(fields: Fields, name: str) -> int | float:
    """0 where it is no number, a negative one or none that anybody counts to."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return value if 0 <= value < _MOST else 0


def how_it_crashed(end: Exit) -> str:
    """One line for an end without an exit status."""
    if end.signal is None:
        return "ended without a record of how"
    try:
        return f"killed by {signal.Signals(end.signal).name}"
    except ValueError:
        return f"killed by signal {end.signal}"


def last_words(stderr: Path) -> str:
    """The last line of stderr that is not blank, fit for a log; empty if there is none."""
    lines = tail_text(stderr, _STDERR_LOOK).split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return printable(last, _DETAIL_LIMIT)


_BASICS = frozenset({"HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "TZ", "TMPDIR"})
_BASIC_PREFIXES = ("LC_", "XDG_")
_RESERVED = "AGENT_MAILER_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def build_env(environ: Mapping[str, str], pass_names: Iterable[str], set_values: Mapping[str, str]) -> dict[str, str]:
    """The environment of every turn, before the turn's own variables.

    The basics of `environ`, then those in `pass_names`, then `set_values`. Nothing named AGENT_MAILER_* comes through
    in any way (the broker's key may be among them), and of a parent agent's own variables (CLAUDE*, CODEX*) only what
    `pass_names` names. Raises ConfigFault for a name or value that no environment can carry.
    """
    allowed = set(pass_names)
    for name in (*allowed, *set_values):
        if not _NAME.fullmatch(name):
            raise ConfigFault("bad_env_name", f"[env] names {name!r}, which is no variable", "agent-mailer config edit")
    for name, value in set_values.items():
        if "\0" in value:
            raise ConfigFault("bad_env_value", f"[env] set.{name} holds a NUL character", "agent-mailer config edit")
    passed = {
        name: value
        for name, value in environ.items()
        if name in _BASICS or name in allowed or (name.startswith(_BASIC_PREFIXES) and _NAME.fullmatch(name))
    }
    return {name: value for name, value in (passed | dict(set_values)).items() if not name.startswith(_RESERVED)}


_SECRETS = (".ssh", ".aws", ".gnupg")


def secrets_in(env: Mapping[str, str]) -> list[Path]:
    """Folders of keys in the home of `env`, which no work needs to read."""
    home = env.get("HOME")
    return [Path(home) / name for name in _SECRETS] if home else []


def turn_variables(request: TurnRequest) -> dict[str, str]:
    """What every agent sees of its turn; `agent-mailer mail` works from these."""
    variables = {
        "AGENT_MAILER_WORKDIR": str(request.workdir),
        "AGENT_MAILER_TURN_ID": request.turn_id,
        "AGENT_MAILER_TURN_DIR": str(request.turn_dir),
        "AGENT_MAILER_MESSAGE_ID": request.message_id,
        "AGENT_MAILER_THREAD_ID": request.thread_id,
        "AGENT_MAILER_FROM": request.sender,
        "AGENT_MAILER_ATTEMPT": str(request.attempt),
    }
    if request.batch:
        variables["AGENT_MAILER_MESSAGE_IDS"] = " ".join((request.message_id, *request.batch))
    if request.project_dir is not None:
        variables["AGENT_MAILER_PROJECT_DIR"] = str(request.project_dir)
    return variables
