"""Wiring of the agent programs: from a configuration to the adapter that starts a turn's program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent_mailer.config import Config, RuntimeKind, expand
from agent_mailer.errors import ConfigFault
from agent_mailer.runtimes.port import CommandOutput, PermissionMode, Reach, Runtime

if TYPE_CHECKING:
    from agent_mailer.runtimes.acp.shelf import Shelf


class Around(msgspec.Struct, frozen=True):
    """What is known of a workdir. `env`: what a turn sees; `reach`: what of ours it may not touch; `counted`: trusted
    files in place of ours, by name.
    """

    workdir: Path
    env: Mapping[str, str]
    reach: Reach
    counted: Mapping[str, bytes]


def runtime_of(config: Config, around: Around) -> Runtime:
    """Raises ConfigFault where the agent program refuses what is configured."""
    keeps = config.keep_transcripts > 0
    match config.runtime:
        case RuntimeKind.COMMAND:
            from agent_mailer.runtimes.command import CommandRuntime

            return CommandRuntime(config.command, config.command_output, around.env, keeps_output=keeps)
        case RuntimeKind.INFINITI:
            from agent_mailer.runtimes.command import INFINITI, CommandRuntime

            command = (config.infiniti_command, "cli")
            return CommandRuntime(command, CommandOutput.TEXT, around.env, INFINITI, keeps_output=keeps)
        case RuntimeKind.CLAUDE:
            return _claude(config, around)
        case RuntimeKind.CODEX:
            return _codex(config, around)
        case RuntimeKind.ACP:
            return _described(config, around)
        case None:
            from agent_mailer.config_faults import mend_missing

            mend = mend_missing(config, [("runtime", "--runtime")])
            raise ConfigFault("no_runtime", "no agent program is chosen", mend)


def shelf_of(counted: Mapping[str, bytes]) -> Shelf:
    """The descriptions of agents that count for a workdir."""
    from platformdirs import user_config_path

    from agent_mailer.runtimes.acp.shelf import AGENTS, Shelf

    return Shelf(counted, user_config_path("agent-mailer") / AGENTS)


def _claude(config: Config, around: Around) -> Runtime:
    from agent_mailer.policies import approve_of
    from agent_mailer.runtimes.claude.adapter import ClaudeOptions, ClaudeRuntime

    options = ClaudeOptions(
        _permission_mode(config),
        model=config.model,
        tools=config.tools,
        extra_args=config.extra_args,
        max_budget_usd=config.max_budget_usd,
        config_home=_config_home(config, around),
        reach=around.reach,
        asks=approve_of(config).asks,
    )
    return ClaudeRuntime(config.claude_command, options, around.env)


def _codex(config: Config, around: Around) -> Runtime:
    from agent_mailer.policies import approve_of
    from agent_mailer.runtimes.codex.adapter import CodexRuntime

    return CodexRuntime(
        config.codex_command,
        around.env,
        mode=_permission_mode(config),
        model=config.model,
        extra_args=config.extra_args,
        home=_config_home(config, around),
        reach=around.reach,
        asks=approve_of(config).asks,
    )


def _described(config: Config, around: Around) -> Runtime:
    from agent_mailer.runtimes.acp.adapter import AgentOptions, AgentRuntime

    options = AgentOptions(
        _permission_mode(config), model=config.model, extra_args=config.extra_args, reach=around.reach
    )
    return AgentRuntime(shelf_of(around.counted).find(config.agent), options, around.env)


def _permission_mode(config: Config) -> PermissionMode:
    if config.permission_mode is None:
        raise ConfigFault("incomplete", "permission_mode is missing", "agent-mailer config set permission_mode MODE")
    return config.permission_mode


def _config_home(config: Config, around: Around) -> Path | None:
    return expand(config.config_home, around.workdir) if config.config_home else None
