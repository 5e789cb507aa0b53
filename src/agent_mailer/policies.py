"""From a configuration to the rules by which a watcher works."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from agent_mailer.config import ENV_PREFIX, Config, GlobalNote, MailboxKind, RuntimeKind, expand
from agent_mailer.config_tables import Alarm, AskedBy, size_in_bytes
from agent_mailer.confine.port import Kind, MailboxAccess
from agent_mailer.process.first import CONTAINER_GRACE
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.schedules.due import Schedule
from agent_mailer.watch.guards.alarm import AlarmPolicy
from agent_mailer.watch.guards.budgets import BudgetPolicy
from agent_mailer.watch.guards.calm import CalmPolicy, parse_hours
from agent_mailer.watch.guards.rounds import GuardPolicy
from agent_mailer.watch.guards.who import WhoPolicy
from agent_mailer.watch.rules import ApprovePolicy, NotifyPolicy, WatchPolicy


class Where(msgspec.Struct, frozen=True):
    """What the configuration does not say. `surroundings` is our environment, fit for the operator's own program; `own`
    the agent's address, `agents` tells those of all workdirs of this user; `hurried` where whoever stops us waits
    no longer than for a container; `bodies` are the trusted digests of what schedules send.
    """

    workdir: Path
    project_dir: Path | None
    handle: str
    own: str
    surroundings: Mapping[str, str]
    out_of_git: tuple[Path, ...]
    agents: Callable[[], Collection[str]]
    hurried: bool = False
    bodies: Mapping[str, str] = {}


def policy_of(config: Config, where: Where) -> WatchPolicy:
    notify = NotifyPolicy(
        command=config.notify.command,
        address=config.notify.address,
        urls=config.notify.apprise,
        agent=config.agent_name or where.handle,
        # The operator's own program sees all of his environment but what is ours: our keys are there.
        env={name: value for name, value in where.surroundings.items() if not name.startswith(ENV_PREFIX)},
        trouble_after=float(config.notify.trouble_after),
        timeout=float(config.notify.timeout),
    )
    return WatchPolicy(
        workdir=where.workdir,
        project_dir=where.project_dir,
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
        global_note_fixed=config.memory_global is GlobalNote.READ,
        turn_timeout=float(config.turn_timeout),
        tool_timeout=float(config.tool_timeout) or None,
        first_output_timeout=float(config.first_output_timeout) or None,
        silence_timeout=float(config.silence_timeout) or None,
        stop_grace=CONTAINER_GRACE if where.hurried else float(config.stop_grace),
        turn_memory=size_in_bytes(config.turn_memory),
        keep_transcripts=config.keep_transcripts,
        notify=notify,
        out_of_git=where.out_of_git,
        who=_who(config, where),
        budget=BudgetPolicy(**msgspec.structs.asdict(config.limits), reserve=config.max_budget_usd),
        guards=_guards(config),
        schedules=schedules_of(config, where.workdir, where.bodies),
        approve=approve_of(config),
        remote=config.remote,
        live_wait=float(config.live_wait),
        live_time=float(min(config.live_time, config.turn_timeout)),
    )


PLANS = "This turn only plans (permission_mode plan): what has to be asked of a person is not done in it."


def approve_of(config: Config) -> ApprovePolicy:
    """Before what a person is asked, and how his answer may come."""
    keys, notify = config.approve, config.notify
    told = bool(notify.command or notify.address or notify.apprise)
    hidden, by_sender = _hides_mail(config), keys.by is AskedBy.SENDER
    return ApprovePolicy(
        rules=keys.tools,
        # Where nobody is there to be asked, the program's own refusal stands.
        refused=keys.refused and (told or by_sender) and config.permission_mode is PermissionMode.ACCEPT_EDITS,
        expires=float(keys.expires),
        forbidden=PLANS if config.permission_mode is PermissionMode.PLAN else "",
        tells_codes=hidden or config.mailbox_kind is MailboxKind.AMP,
        mail_hidden=hidden and config.mailbox_kind is MailboxKind.MAILDIR,
        asks_sender=by_sender,
        # Their hooks hear of an edit before it is made.
        edits=config.reserves and config.runtime in (RuntimeKind.CLAUDE, RuntimeKind.CODEX),
    )


def _hides_mail(config: Config) -> bool:
    return config.sandbox.kind is not Kind.OFF and config.sandbox.mailbox is MailboxAccess.HIDE


def schedules_of(config: Config, workdir: Path, bodies: Mapping[str, str]) -> tuple[Schedule, ...]:
    """Raises ConfigFault for what can be no path."""
    return tuple(
        Schedule(
            one.name, one.cron, one.zone, one.subject, expand(one.body, workdir), one.thread, bodies.get(one.body, "")
        )
        for one in config.schedule
    )


def _guards(config: Config) -> GuardPolicy:
    keys = config.guards
    calm = CalmPolicy(
        parse_hours(keys.quiet_hours), keys.max_load, size_in_bytes(keys.min_memory), size_in_bytes(keys.min_disk)
    )
    return GuardPolicy(
        max_hops=keys.max_hops,
        pair_rounds=keys.pair_rounds,
        ring_rounds=keys.ring_rounds,
        new_threads=keys.new_threads,
        rounds_per_day=keys.rounds_per_day,
        turns_per_hour=keys.turns_per_hour,
        window=float(keys.window),
        # Where nothing of it is asked for, nobody looks.
        calm=calm if calm != CalmPolicy() else None,
        alarm=AlarmPolicy(float(config.alarm.mail_waits), float(config.alarm.no_turn))
        if config.alarm != Alarm()
        else None,
    )


def _who(config: Config, where: Where) -> WhoPolicy:
    """Whose mail is worked on, and who is a person: never an agent, whatever `people` says."""
    at_broker = config.mailbox_kind is MailboxKind.AMP
    # The names that each of them has for the person there.
    at_server = config.mailbox_kind in (MailboxKind.MCP_AGENT_MAIL, MailboxKind.RELAY)
    person = f"human-operator@{where.own.partition('@')[2]}" if at_broker else "the-user" if at_server else "user"
    people = (*config.people, person, *([config.notify.address] if config.notify.address else []))
    # Where the operator's answers by mail count, no agent may pass for him.
    named = config.people or (config.notify.address and _hides_mail(config)) or config.approve.by is AskedBy.SENDER
    known, vouched = where.agents() if named else (), {person} if at_broker else ()
    return WhoPolicy(config.allow_from, config.deny_from, people, where.own, frozenset(known), frozenset(vouched))
