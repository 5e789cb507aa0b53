"""Installs the agent programs that the e2e tests run into .tools/clis, in exactly these versions; once.

Prints nothing where they are there already. Exit status 69 where they cannot be installed (no npm, no network): the
tests that need them skip then, or fail where CI is set.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock

from agent_mailer.errors import MailerError, UnavailableFault
from agent_mailer.process.commands import run_command

VERSIONS = {"claude": "2.1.332", "codex": "0.171.0"}
"""The only place where they stand: tests ask here, and compare what the documents say they were tested with."""

PACKAGES = {
    "claude": f"@anthropic-ai/claude-code@{VERSIONS['claude']}",
    "codex": f"@openai/codex@{VERSIONS['codex']}",
}

TOOLS = Path(__file__).resolve().parents[1] / ".tools"
CLIS = TOOLS / "clis"
_STAMP = "installed"


def binary(name: str) -> Path:
    """Where `name` lies once it is installed."""
    return CLIS / "node_modules" / ".bin" / name


def installed() -> bool:
    """Whether just these versions are there."""
    stamp = CLIS / _STAMP
    return stamp.is_file() and stamp.read_text() == _wanted() and all(binary(name).exists() for name in PACKAGES)


def install() -> None:
    """Install what is missing; two at a time wait for each other. Raises UnavailableFault."""
    if installed():
        return
    TOOLS.mkdir(exist_ok=True)
    with FileLock(TOOLS / "clis.lock"):
        if not installed():
            _install_anew()


def _install_anew() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableFault("no_npm", "npm is not in PATH", "install Node.js 20 or newer with npm")
    print(f"agent_clis: installing {', '.join(PACKAGES.values())} into .tools/clis (some 800 MB)", file=sys.stderr)  # noqa: T201
    fresh = TOOLS / "clis.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    # A folder of its own package: npm would go up to whatever package.json it finds.
    (fresh / "package.json").write_text('{"private": true}\n')
    argv = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error", *PACKAGES.values()]
    done = run_command(argv, env=os.environ, cwd=fresh)
    if done.status:
        raise UnavailableFault("npm_failed", f"npm could not install them:\n{done.output.strip()[-2000:]}", "")
    for name, package in PACKAGES.items():
        version = package.rpartition("@")[2]
        answer = run_command([str(fresh / "node_modules" / ".bin" / name), "--version"], env=os.environ, cwd=fresh)
        if answer.status or version not in answer.output:
            raise UnavailableFault("cli_broken", f"{package} does not start: {answer.output.strip()[:500]}", "")
    (fresh / _STAMP).write_text(_wanted())
    shutil.rmtree(CLIS, ignore_errors=True)
    fresh.rename(CLIS)


def _wanted() -> str:
    return "".join(f"{package}\n" for package in PACKAGES.values())


def main() -> int:
    try:
        install()
    except (MailerError, OSError) as fault:
        fix = f" ({fault.fix})" if isinstance(fault, MailerError) and fault.fix else ""
        print(f"agent_clis: {fault}{fix}", file=sys.stderr)  # noqa: T201
        return int(UnavailableFault.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
