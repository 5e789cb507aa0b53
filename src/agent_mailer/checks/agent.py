"""The agent program and its mail tools, started with the very environment that an agent would get."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.checks import CheckResult, Level, failed, guarded, ok, warning
from agent_mailer.confine.port import TurnPlaces
from agent_mailer.disk import Disk
from agent_mailer.errors import ExitCode, quoted
from agent_mailer.mailbox.port import Contact, Envelope, Message
from agent_mailer.runtimes.port import LOGIN, Finding, Launch, Probe, Runtime, ToolServer, TurnRequest
from agent_mailer.turn_tools.folder import OUTBOX, TURN_TMP, Facts, TurnFolder

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

PROBE_SECONDS = 20.0
TOOL_SECONDS = 20.0
VERSION = "version"
"""A probe's name. A version that is not the best still works; without a login nothing does."""

SCRATCH_TURN = "20000101T000000-00000000"
"""The id of a turn that is none: the tools of a check work in its folder."""

_MESSAGE = "check"


class Program(msgspec.Struct, frozen=True):
    """The agent program as a turn would start it, and what it can be asked without a model."""

    launch: Launch
    probes: tuple[Probe, ...]


Tools = Callable[[Path], ToolServer]


def find_program(
    runtime: Runtime,
    workdir: Path,
    project_dir: Path | None,
    tools: Tools,
    turn_dir: Path,
    *,
    confined: bool = False,
    own_sandbox: bool = True,
) -> Program:
    """Starts nothing. `confined` and `own_sandbox` are as in a `TurnRequest`.

    Raises RuntimeMissing, or ConfigFault for settings that the program would refuse.
    """
    request = TurnRequest(
        turn_id=SCRATCH_TURN,
        turn_dir=turn_dir,
        workdir=workdir,
        project_dir=project_dir,
        message_id=_MESSAGE,
        thread_id=_MESSAGE,
        sender="user",
        attempt=1,
        session_id=None,
        tools=tools(turn_dir),
        confined=confined,
        own_sandbox=own_sandbox,
    )
    probes = tuple(runtime.probes(workdir))
    return Program(runtime.command(request), probes)


def check_runtime(looked_at: object, find: Callable[[], Program]) -> CheckResult:
    """The program is there, can be executed, and takes these settings."""
    return guarded("runtime", looked_at, lambda: ok("runtime", named_program(find().launch), "found"))


def named_program(launch: Launch) -> str:
    """The program, also where something else starts it, or a shell hands its arguments on to it."""
    argv = launch.argv
    if launch.program:
        return launch.program
    return argv[4] if argv[1:2] == ("-c",) and len(argv) > 4 and '"$@"' in argv[2] else argv[0]


def check_environment(passed: Sequence[str], values: Mapping[str, str], environ: Mapping[str, str]) -> CheckResult:
    """What `[env] pass` names is set here: a key that is missing shows as a lost login otherwise."""
    absent = [name for name in passed if name not in environ and name not in values]
    if absent:
        text = f"[env] pass names {', '.join(absent)}, not set here; a service has an environment of its own, too"
        return warning("environment", "[env]", text, f"export {absent[0]}=... or: agent-mailer config edit")
    if not environ.get("HOME"):
        return warning("environment", "$HOME", "HOME is not set: the agent program finds no login", "export HOME=~")
    named = ", ".join((*passed, *values))
    return ok("environment", "[env]", f"the agent sees also {named}" if named else "the basics, nothing more")


def check_probes(runtime: Runtime, program: Program) -> list[CheckResult]:
    """What the program itself says: its version, its login."""
    return [_probe(runtime, probe) for probe in program.probes]


def _probe(runtime: Runtime, probe: Probe) -> CheckResult:
    from agent_mailer.process.commands import run_briefly

    shown = " ".join(probe.argv)

    def look() -> CheckResult:
        done = run_briefly(probe.argv, env=probe.env, cwd=probe.cwd, seconds=PROBE_SECONDS)
        if done.status is None:
            text = f"no answer within {PROBE_SECONDS:.0f} seconds"
            return failed(probe.name, shown, text, f"try it by hand: {shown}", ExitCode.UNAVAILABLE)
        finding: Finding = runtime.read_probe(probe, done.status, done.output)
        if finding.ok:
            return ok(probe.name, shown, finding.text)
        fix = finding.fix or f"try it by hand: {shown}"
        if probe.name == VERSION and done.status == 0:
            return warning(probe.name, shown, finding.text, fix)
        code = ExitCode.REFUSED if probe.name == LOGIN else ExitCode.UNAVAILABLE
        return failed(probe.name, shown, finding.text, fix, code)

    return guarded(probe.name, shown, look)


def first_complaint(runtime: Runtime, program: Program) -> CheckResult | None:
    """The first probe that says what is wrong."""
    found = (_probe(runtime, probe) for probe in program.probes)
    return next((result for result in found if result.result is Level.FAILED), None)


Within = Callable[[Launch, TurnPlaces], Launch]
"""The same process as a turn would start it, in its sandbox if there is one. May raise MailerError."""


def check_tools(
    env: Mapping[str, str], cwd: Path, server: Tools, scratch: Path, now: float, within: Within
) -> list[CheckResult]:
    """The mail commands read a made-up mail in a folder of a turn; the tool server says what it can do.

    `env` and `cwd` are those of a turn: what stops the tools there stops them here. `scratch`: an empty folder.
    """
    folder = TurnFolder(scratch / SCRATCH_TURN, Disk())
    envelope = Envelope(_MESSAGE, _MESSAGE, "user", now, _MESSAGE, _MESSAGE)
    facts = Facts(SCRATCH_TURN, "agent", 1024 * 1024, str(scratch / "global.md"), str(scratch / "check.md"))
    folder.prepare(Message(envelope, subject=_MESSAGE, body=_MESSAGE), (), (Contact("user"),), facts)
    here = {
        **env,
        "AGENT_MAILER_TURN_DIR": str(folder.path),
        "AGENT_MAILER_WORKDIR": str(scratch),
        "AGENT_MAILER_MESSAGE_ID": _MESSAGE,
    }
    own = TurnPlaces(folder.path, folder.path / OUTBOX, folder.path / TURN_TMP)

    def started(argv: Sequence[str], env: Mapping[str, str]) -> Launch:
        return within(Launch(tuple(argv), env, cwd), own)

    found = [_commands(here, started)]
    if find_spec("agent_mailer.turn_tools.mcp") is not None:
        found.append(_server(env, server(folder.path), started))
    return found


def no_scratch(folder: str, error: OSError) -> CheckResult:
    """There is no place to try the tools in, and a turn's own programs would find none either."""
    text = f"nothing can be written there: {error.strerror or error}"
    return failed("mail_commands", folder, text, f"df -h {quoted(folder)}", ExitCode.UNAVAILABLE)


_Started = Callable[[Sequence[str], Mapping[str, str]], Launch]


def _commands(env: Mapping[str, str], started: _Started) -> CheckResult:
    from agent_mailer.process.commands import run_briefly

    argv = ("agent-mailer", "mail", "read")
    shown = " ".join(argv)

    def look() -> CheckResult:
        import shutil

        program = shutil.which(argv[0], path=env.get("PATH", os.defpath))
        if program is None:
            return failed("mail_commands", shown, "not in the agent's PATH", "reinstall agent-mailer")
        launch = started((program, *argv[1:]), env)
        done = run_briefly(launch.argv, env=launch.env, cwd=launch.cwd, seconds=TOOL_SECONDS)
        if done.status == 0 and _MESSAGE in done.output:
            return ok("mail_commands", program, "read a mail in a turn's folder")
        return _broken("mail_commands", shown, done.status, done.output)

    return guarded("mail_commands", shown, look)


def _server(env: Mapping[str, str], server: ToolServer, started: _Started) -> CheckResult:
    """The first words of an MCP client: the server must say who it is and what it can do."""
    from agent_mailer.process.commands import run_briefly

    shown = " ".join(server.argv[:-1])

    def look() -> CheckResult:
        launch = started(server.argv, {**env, **server.env})
        done = run_briefly(launch.argv, env=launch.env, cwd=launch.cwd, seconds=TOOL_SECONDS, stdin=_HANDSHAKE)
        answers = _answers(done.output)
        if 1 in answers and 2 in answers:
            named = sorted(tool.name for tool in answers[2].tools)
            return ok("mail_tools", shown, f"answers with {len(named)} tools: {', '.join(named)}")
        return _broken("mail_tools", shown, done.status, done.output)

    return guarded("mail_tools", shown, look)


class _Tool(msgspec.Struct):
    name: str


class _Tools(msgspec.Struct):
    tools: list[_Tool] = []


class _Answer(msgspec.Struct):
    """One line of the server. `result` is missing where it answers with an error."""

    id: int
    result: _Tools


_HANDSHAKE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{},"clientInfo":{"name":"agent-mailer doctor","version":"1"}}}\n'
    b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
    b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}\n'
)


def _answers(output: str) -> dict[int, _Tools]:
    found: dict[int, _Tools] = {}
    for line in output.splitlines():
        try:
            answer = msgspec.json.decode(line, type=_Answer)
        except (msgspec.DecodeError, RecursionError):
            continue
        found[answer.id] = answer.result
    return found


def _broken(name: str, shown: str, status: int | None, output: str) -> CheckResult:
    how = f"no end within {TOOL_SECONDS:.0f} seconds" if status is None else f"exit status {status}"
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "it said nothing")
    return failed(name, shown, f"does not work: {how}: {last}", "reinstall agent-mailer", ExitCode.UNAVAILABLE)


def program_of(place: Workplace) -> Program:
    """The agent program as a turn of this workdir would start it. Raises RuntimeMissing or ConfigFault."""
    turn_dir = place.folder.turns / SCRATCH_TURN
    runtime = place.runtime()
    confinement = place.confinement(runtime)
    return find_program(
        runtime,
        place.workdir,
        place.project_dir(),
        place.tools,
        turn_dir,
        confined=confinement is not None,
        own_sandbox=confinement is None or confinement.leaves_own_sandbox,
    )
