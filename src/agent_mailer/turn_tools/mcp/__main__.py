"""`python -m agent_mailer.turn_tools.mcp [TURN_DIR]`; without it, AGENT_MAILER_TURN_DIR."""

from __future__ import annotations

import os
import sys

from agent_mailer.errors import ExitCode, MailerError, UsageFault
from agent_mailer.turn_tools.mcp.server import serve, turn_of


def main(words: list[str]) -> int:
    try:
        if len(words) > 1:
            raise UsageFault("arguments", "there is one argument, the turn's folder", "leave out the others")
        serve(turn_of(words[0] if words else None, os.environ))
    except MailerError as fault:
        sys.stderr.write(f"error: {fault.message}\n  mend: {fault.fix}\n")
        return fault.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
