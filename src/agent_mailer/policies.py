"""What a watcher goes by, made of the configuration: waits, limits, whose mail, who is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from agent_mailer.config import ENV_PREFIX, Config
from agent_mailer.process.scope import size_in_bytes
from agent_mailer.watch.guards.rounds import GuardPolicy
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.rules import NotifyPolicy, WatchPolicy


def policy_of(
    config: Config,
    workdir: Path,
    *,
    project_dir: Path | None,
    agent: str,
    surroundings: Mapping[str, str],
    out_of_git: tuple[Path, ...],
    who: WhoPolicy,
) -> WatchPolicy:
    """`agent`: its name to people; `surroundings`: the environment that the operator's own program gets."""
    notify = NotifyPolicy(
        command=config.notify.command,
        address=config.notify.address,
        agent=agent,
        # It sees all of the operator's environment but what is ours: our keys are there.
        env={name: value for name, value in surroundings.items() if not name.startswith(ENV_PREFIX)},
        trouble_after=float(config.notify.trouble_after),
        timeout=float(config.notify.timeout),
    )
    return WatchPolicy(
        workdir=workdir,
        project_dir=project_dir,
        max_retries=config.max_retries,
        max_starts=config.max_starts,
        max_parallel_turns=config.max_parallel_turns,
        batch_low=config.batch_low,
        retry_first=float(config.retry.first),
        retry_longest=float(config.retry.longest),
        session_max_age_days=config.session_max_age_days,
        session_max_turns=config.session_max_turns,
        session_max_bytes=config.session_max_megabytes * 1_000_000 or None,
        auto_reply=config.auto_reply,
        turn_timeout=float(config.turn_timeout),
        tool_timeout=float(config.tool_timeout) or None,
        first_output_timeout=float(config.first_output_timeout) or None,
        silence_timeout=float(config.silence_timeout) or None,
        stop_grace=float(config.stop_grace),
        turn_memory=size_in_bytes(config.turn_memory),
        keep_transcripts=config.keep_transcripts,
        notify=notify,
        out_of_git=out_of_git,
        who=who,
        guards=GuardPolicy(**{**msgspec.structs.asdict(config.guards), "window": float(config.guards.window)}),
    )


def who_of(config: Config, own: str, agents: Callable[[], Collection[str]], *, at_broker: bool) -> WhoPolicy:
    """Whose mail is worked on, and who is a person: never an agent, whatever `people` says. `own`: the agent's address;
    `agents`: those of this user's workdirs.
    """
    # The names that our broker and a folder keep for the person there.
    person = f"human-operator@{own.partition('@')[2]}" if at_broker else "user"
    people = (*config.people, person, *([config.notify.address] if config.notify.address else []))
    known, vouched = agents() if config.people else (), {person} if at_broker else ()
    return WhoPolicy(config.allow_from, config.deny_from, people, own, frozenset(known), frozenset(vouched))
