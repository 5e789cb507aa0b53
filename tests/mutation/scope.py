"""Which tests look at which module, and which modules are to be killed whole.

`./run mutate` tries a mutant by the tests of the first row that names its module, stage by stage, until one fails.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

SOURCE = Path("src/agent_mailer")


class Stage(StrEnum):
    """In the order of what they cost."""

    UNIT = "unit"
    TYPES = "types"
    INTEGRATION = "integration"
    CRASH = "crash"


class Scope(msgspec.Struct, frozen=True):
    """Tests by the names of their files, without `test_`."""

    unit: tuple[str, ...]
    integration: tuple[str, ...]
    crash: tuple[str, ...] = ()

    def tests(self, stage: Stage) -> tuple[str, ...]:
        named = {Stage.UNIT: self.unit, Stage.INTEGRATION: self.integration, Stage.CRASH: self.crash}
        return tuple(f"tests/{stage}/test_{name}.py" for name in named.get(stage, ()))


_CRASH = ("model", "every_call_fails", "kill_points", "power_loss", "kill_loop")
_ENGINE = ("engine_turn", "engine_recovery")
_GUARDS_UNIT = (
    "guards_decisions",
    "guards_bounds",
    "guards_keys",
    "guards_gate",
    "guards_admitted",
    "approval_answers",
    "watch_rules",
    "watch_backlog",
    "watch_notices",
    "state_folder",
)
_GUARDS = ("guards_loops", "guards_held", "guards_budgets", "guards_calm", "guards_alarm")
_APPROVALS = ("approvals", "approvals_by_force", "approval_commands", "approvals_by_mail")

NAMED: dict[str, Scope] = {
    "watch/rules.py": Scope(
        (
            "watch_retry",
            "watch_schedule",
            "watch_session_choice",
            "watch_pausing",
            "process_clocks",
            "watch_rules",
        ),
        (),
    ),
    "watch/deciding.py": Scope(
        ("watch_deciding", "watch_settlement"),
        (),
    ),
    "watch/backlog.py": Scope(
        ("watch_backlog", "watch_putting_away"),
        (
            *_ENGINE,
            "stuck",
            "guards_held",
            "dry_run",
            "routes",
            "approvals_by_mail",
            "bad_state",
            "putting_away_on_a_server",
            "amp_watch",
        ),
        _CRASH,
    ),
    "watch/settling.py": Scope(("watch_settling",), (*_ENGINE, "batch_low", "stuck", "approvals"), _CRASH),
    "watch/recovery.py": Scope(
        ("watch_settling",), ("engine_recovery", "forged_records", "bad_state", "stop_in_time", "degraded"), _CRASH
    ),
    "watch/guards/rounds.py": Scope(_GUARDS_UNIT, _GUARDS),
    "watch/guards/budgets.py": Scope(_GUARDS_UNIT, _GUARDS),
    "watch/guards/calm.py": Scope(_GUARDS_UNIT, _GUARDS),
    "watch/guards/who.py": Scope(_GUARDS_UNIT, _GUARDS),
    "watch/guards/gate.py": Scope(_GUARDS_UNIT, _GUARDS),
    "watch/guards/holding.py": Scope(
        ("guards_let_go", *_GUARDS_UNIT), (*_GUARDS, "putting_away_on_a_server", "amp_watch")
    ),
    "watch/guards/raising.py": Scope(("guards_let_go", *_GUARDS_UNIT), _GUARDS),
    "watch/guards/alarm.py": Scope(_GUARDS_UNIT, _GUARDS),
    "approvals/calls.py": Scope(("approval_calls", "approval_hook", "approval_answers", "codex_asking"), _APPROVALS),
    "approvals/turn.py": Scope(("approval_calls", "approval_hook", "approval_answers", "codex_asking"), _APPROVALS),
    "approvals/hook.py": Scope(("approval_calls", "approval_hook", "approval_answers", "codex_asking"), _APPROVALS),
    "approvals/edits.py": Scope(("approval_calls", "approval_hook"), ("reservations", *_APPROVALS)),
}
"""Of these each mutant that nothing kills stands in tests/survivors.toml."""

REST: dict[str, Scope] = {
    "watch/": Scope(
        (
            "watch_deciding",
            "watch_judging",
            "watch_notices",
            "watch_pausing",
            "process_clocks",
            "watch_batch",
            "watch_following",
            "watch_putting_away",
            "watch_requests",
            "watch_sending",
            "watch_settings",
            "watch_unsent",
            "pulse",
        ),
        (
            *_ENGINE,
            "stuck",
            "notices",
            "turn_stopped",
            "batch_low",
            "reservations",
            "stop_in_time",
            "approvals_by_mail",
        ),
        _CRASH,
    ),
    "state/": Scope(
        (
            "state_entries",
            "state_folder",
            "state_lists",
            "state_notes",
            "state_reading",
            "state_stuck",
            "state_turns",
            "state_workdirs",
            "state_approvals",
            "state_refused",
            "state_retention",
            "retake",
            "user_state",
        ),
        (*_ENGINE, "bad_state", "forged_records", "guards_held", "approvals", "schedules", "stuck"),
        _CRASH,
    ),
    "disk.py": Scope(("disk", "beneath", "state_folder"), ("half_written", "every_write", *_ENGINE), _CRASH),
    "mailbox/maildir/": Scope(
        ("maildir_compose", "maildir_format", "maildir_layout", "maildir_remembered", "maildir_routes", "user_state"),
        (
            "maildir_adapter",
            "maildir_consume",
            "maildir_delivery",
            "maildir_file_events",
            "maildir_suite",
            "half_written",
            "thread_index",
        ),
        _CRASH,
    ),
    "mailbox/amp/": Scope(
        ("amp_compose", "amp_listing", "amp_wire"),
        (
            "amp_answers",
            "amp_stream",
            "amp_wires",
            "amp_unreadable",
            "amp_again",
            "amp_suite",
            "amp_watch",
            "broker_links",
            "broker_receipts",
            "broker_remote",
            "broker_reservations",
        ),
    ),
    "mailbox/mcp_agent_mail/": Scope((), ("mcp_mail", "mcp_mail_suite")),
    "mailbox/relay/": Scope(("relay_reader",), ("relay", "relay_suite")),
    "mailbox/reservations/": Scope(("reservation_patterns",), ("reservations",)),
    "mailbox/": Scope(("maildir_compose", "amp_compose"), ("mcp_mail", "relay", "amp_suite")),
    "confine/": Scope(("confine_bounds",), ("confined", "confined_start")),
}
"""By what a module's path begins with; `./run mutate --sample N` draws from these."""


def every_test(project: Path, module: str, stage: Stage) -> tuple[str, ...]:
    """The files that may come to the module: of the broker's and the consoles' only their own do."""
    apart = tuple(f"test_{room}" for room in ("broker", "console") if not module.startswith(room))
    found = (one for one in (project / "tests" / stage).glob("test_*.py") if not one.name.startswith(apart))
    return tuple(sorted(str(one.relative_to(project)) for one in found))


def scope_of(module: str) -> Scope | None:
    if module in NAMED:
        return NAMED[module]
    return next((scope for begin, scope in REST.items() if module.startswith(begin)), None)


def rest(project: Path) -> list[str]:
    """The modules of `REST`, by their paths below the package."""
    found = (str(path.relative_to(project / SOURCE)) for path in sorted((project / SOURCE).rglob("*.py")))
    return [module for module in found if module not in NAMED and scope_of(module) is not None]
