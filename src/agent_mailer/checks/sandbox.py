"""What stands around a turn, tried as a watcher tries it before its first turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agent_mailer.checks import CheckResult, failed, guarded, ok, warning
from agent_mailer.checks.agent import Within
from agent_mailer.confine.port import Kind, MailboxAccess, TurnPlaces
from agent_mailer.runtimes.port import Launch, PermissionMode, Runtime

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

_NAME, _KEY = "sandbox", "[sandbox]"
_TURN_ON = "agent-mailer config set sandbox.kind bwrap"


def check_sandbox(place: Workplace, runtime: Runtime, launch: Launch) -> list[CheckResult]:
    """The proof, and what the kind that holds cannot promise for these settings."""

    def look() -> CheckResult:
        confinement = place.confinement(runtime)
        if confinement is None:
            return ok(_NAME, _KEY, f"off: a turn may touch all that you may touch ({_TURN_ON})")
        proof = asyncio.run(confinement.prove(launch))
        if proof.holds:
            return ok(_NAME, _KEY, proof.text)
        return failed(_NAME, _KEY, f"no turn is started: {proof.text}", proof.fix)

    return [guarded(_NAME, _KEY, look), *_limits(place, runtime)]


def _limits(place: Workplace, runtime: Runtime) -> Iterator[CheckResult]:
    """What a kind that holds cannot promise, where these settings need it."""
    keys, home = place.config.sandbox, runtime.traits.home
    if keys.kind is Kind.LANDLOCK and home is not None and not place.config.config_home:
        text = f"Landlock cannot keep a turn from changing your own settings in {home.path}"
        yield warning("sandbox_home", home.path, text, "agent-mailer config set config_home FOLDER")
    if keys.kind is Kind.LANDLOCK and place.config.permission_mode is not PermissionMode.PLAN:
        text = f"no new name can be made right in {place.workdir}, only in folders below it and in project_dir"
        yield ok("sandbox_top", place.workdir, text)
    if keys.kind is not Kind.OFF and keys.mailbox is MailboxAccess.WRITE:
        text = "a turn may write the folder mailbox: no answer there counts as a person's yes"
        yield ok("sandbox_mailbox", _KEY, text)


def within_of(place: Workplace, runtime: Runtime) -> Within:
    """How a process is started as a turn's own are."""
    confinement = place.confinement(runtime)

    def within(launch: Launch, turn: TurnPlaces) -> Launch:
        return launch if confinement is None else asyncio.run(confinement.around(launch, turn))

    return within
