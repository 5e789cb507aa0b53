"""The mail tools of a turn as an MCP server on standard input and output: a line in, a line out, to the end.

`python -m agent_mailer.turn_tools.mcp [TURN_DIR]`; without it, AGENT_MAILER_TURN_DIR.

Written by hand because an agent program waits for it before its first request: the official SDK's server takes a second
or more and 65 MiB to start, and nothing here needs more than one request after the other.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent_mailer.disk import Disk
from agent_mailer.errors import ExitCode, MailerError, UsageFault
from agent_mailer.turn_tools.commands import TURN_DIR, AgentMail
from agent_mailer.turn_tools.folder import TurnFolder
from agent_mailer.turn_tools.mcp_protocol import MAX_LINE_BYTES, Protocol
from agent_mailer.turn_tools.mcp_toolbox import Tools
from agent_mailer.turn_tools.mcp_tools import Toolbox

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_CHUNK = 64 * 1024


def main(words: Sequence[str]) -> int:
    try:
        if len(words) > 1:
            raise UsageFault("arguments", "there is one argument, the turn's folder", "leave out the others")
        serve(turn_of(words[0] if words else None, os.environ))
    except MailerError as fault:
        sys.stderr.write(f"error: {fault.message}\n  fix: {fault.fix}\n")
        return fault.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.FAILED
    return ExitCode.OK


def turn_of(given: str | None, environ: Mapping[str, str]) -> Path:
    """The turn's folder: `given`, else what the environment says. Raises UsageFault where there is none."""
    path = given or environ.get(TURN_DIR)
    if not path:
        why = "there is no turn here: these tools are an agent's, during its turn"
        raise UsageFault("no_turn", why, "agent-mailer mcp --person, in a session of your own")
    if not Path(path).is_dir():
        raise UsageFault("no_turn", f"{path} is no turn's folder", "name the folder of a turn")
    return Path(path).absolute()


def serve(turn_dir: Path) -> None:
    """The tools of a turn. Raises OSError."""
    serve_tools(Toolbox(AgentMail(TurnFolder(turn_dir, Disk()))))


def serve_tools(tools: Tools) -> None:
    """Answer on standard output what is asked on standard input, to its end. Raises OSError."""
    # What has to be ended is ended at once: everything staged is durable, everything else is not there.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    protocol = Protocol(tools)
    sink = _own_stdout()
    for fd in (_STDIN, sink):
        os.set_blocking(fd, True)
    try:
        for line in lines(_STDIN):
            answer = protocol.answer(line)
            if answer is not None:
                write_line(sink, answer)
    except (BrokenPipeError, ConnectionResetError):
        return


def _own_stdout() -> int:
    """Standard output for answers alone: what anything else writes there goes to standard error."""
    sink = os.dup(_STDOUT)
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, _STDOUT)
        os.close(null)
    return sink


def lines(fd: int, limit: int = MAX_LINE_BYTES) -> Iterator[bytes | None]:
    """Each line without its end, as soon as it is complete; None for one of more than `limit` bytes. Raises OSError."""
    held = bytearray()
    passing = False
    while chunk := os.read(fd, _CHUNK):
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            held += chunk[begin:end]
            yield None if passing or len(held) > limit else bytes(held)
            held.clear()
            passing = False
            begin = end + 1
        held += chunk[begin:]
        if passing or len(held) > limit:
            held.clear()
            passing = True
    if passing:
        yield None
    elif held:
        yield bytes(held)


def write_line(fd: int, line: bytes) -> None:
    """Raises OSError; BrokenPipeError where nobody reads any more."""
    view = memoryview(line + b"\n")
    while view:
        view = view[os.write(fd, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
