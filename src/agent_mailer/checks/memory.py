"""Can a turn's memory be limited, where that is asked for?"""

from __future__ import annotations

from collections.abc import Mapping

from agent_mailer.checks.result import CheckResult, guarded, ok, warning


def check_turn_memory(size: str, memory: int, env: Mapping[str, str]) -> CheckResult:
    """A scope with that limit is started as a turn with the environment `env` would be; `memory` is `size` in bytes."""

    def look() -> CheckResult:
        from agent_mailer.process.scope import why_unlimited

        why = why_unlimited(memory, env)
        if why:
            fix = 'agent-mailer config set turn_memory ""'
            return warning("turn_memory", size, f"turns run without this limit: {why}", fix)
        return ok("turn_memory", size, f"a turn is held to {size}")

    return guarded("turn_memory", size, look)
