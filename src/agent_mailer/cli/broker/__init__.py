"""`broker`: serve one, and what its owner does without curl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from agent_mailer.cli.terminal.commands import LazyGroup, group


class _Broker(LazyGroup):
    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "serve": ("agent_mailer.cli.broker.serve", "Run the broker."),
        "user": ("agent_mailer.cli.broker.user", "Its users: add, list, a new password."),
        "invite": ("agent_mailer.cli.broker.user:invite_app", "Invite codes for new users."),
        "key": ("agent_mailer.cli.broker.key", "API keys of agents: add, list, revoke."),
        "agents": ("agent_mailer.cli.broker.agents", "What agents do now, as their watchers report it."),
        "hook": ("agent_mailer.cli.broker.hook", "Hooks, by which other programs write to agents."),
        "backup": ("agent_mailer.cli.broker.upkeep:backup_app", "Copy all that it keeps, while it serves."),
        "restore": ("agent_mailer.cli.broker.upkeep:restore_app", "Fill an empty database from a backup."),
        "import": ("agent_mailer.cli.broker.importing:app", "Take over what the protocol's public broker keeps."),
        "check": ("agent_mailer.cli.broker.upkeep:check_app", "Look whether all that it keeps is whole."),
        "stats": ("agent_mailer.cli.broker.upkeep:stats_app", "How much it keeps, of whom, and what waits."),
        "prune": ("agent_mailer.cli.broker.upkeep:prune_app", "Delete old read mail for good."),
        "audit": ("agent_mailer.cli.broker.upkeep:audit_app", "Who logged in, and changed what."),
        "simulate": ("agent_mailer.cli.broker.simulate:app", "Measure what a broker carries here."),
        "export": ("agent_mailer.cli.broker.upkeep:export_app", "All that it keeps of one user, for that user."),
    }


app = group("broker", "The Agent Mailer Protocol broker; an extra: uv tool install '.[broker]'", _Broker)


@app.callback()
def _root() -> None:
    pass
