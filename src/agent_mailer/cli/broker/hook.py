"""`broker hook`: how programs of elsewhere write to agents."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.broker.database import DatabaseUrl, DataFolder, broker_url, change, data_of, look, user_named
from agent_mailer.cli.hook import Actions, Branches, Events, Labels
from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.names import one_of, pick, printable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from agent_mailer.broker.data import Data
    from agent_mailer.broker.hooks.callbacks import Callback
    from agent_mailer.broker.hooks.history import Came
    from agent_mailer.broker.hooks.rows import Hook
    from agent_mailer.broker.users.rows import User

LIST = "agent-mailer broker hook list"

app = group("hook", "Hooks, by which other programs write to agents. Works on the broker's database.")

Which = Annotated[str, typer.Argument(help="Its path's last part, NAME.USER, or its id.", show_default=False)]


@app.command("add", cls=FastCommand)
def add(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and hyphens.", show_default=False)],
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="Whose it is.", show_default=False)],
    to: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The agent that gets the mail.", show_default=False)
    ] = None,
    team: Annotated[
        str | None, typer.Option(metavar="TEAM", help="Or all agents of this team.", show_default=False)
    ] = None,
    kind: Annotated[str, typer.Option(metavar="generic|github", help="Who calls.")] = "generic",
    event: Events = None,
    action: Actions = None,
    branch: Branches = None,
    label: Labels = None,
    callback: Annotated[
        str | None, typer.Option(metavar="URL", help="Where answers are told back.", show_default=False)
    ] = None,
    callback_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A host that may be a private one, and without TLS. Again for more."),
    ] = None,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Make a hook, and show its secret."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.hooks.rows import NewHook, add_hook
    from agent_mailer.outside.callbacks import is_host
    from agent_mailer.outside.event import Source
    from agent_mailer.outside.rules import Rules

    if bad := next((one for one in callback_host or () if not is_host(one)), None):
        raise UsageFault(
            "bad_host", f"{printable(bad, 80)!r} is no HOST or HOST:PORT", "--callback-host ci.example.org"
        )
    source = Source(one_of(kind, list(Source), "--kind"))
    rules = Rules(tuple(event or ()), tuple(action or ()), tuple(branch or ()), tuple(label or ()))
    secret = _secret(data)

    def work(connection: Connection) -> Hook:
        owner = user_named(connection, user)
        team_id = None if team is None else _team(connection, owner, team)
        new = NewHook(name, source, to or "", team_id, rules, callback or "", tuple(callback_host or ()))
        return add_hook(connection, owner.id, owner.username, _domain(connection, owner), new)

    _tell(data, change(data, work, Act.HOOK_ADDED), secret, as_json=as_json)


@app.command("list", cls=FastCommand)
def listed(folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
    """The hooks, by user, oldest first."""
    found = look(data_of(folder, database), _hooks)
    if as_json:
        json_out([{"user": owner.username, "hook": hook} for owner, hook in found])
        return
    rows = [
        (
            _name(hook),
            hook.kind.value,
            printable(hook.to) if hook.to else "a team",
            "" if hook.standing == "active" else hook.standing.value,
            hook.created_at[:16],
        )
        for _, hook in found
    ]
    head = ("HOOK", "KIND", "TO", "", "SINCE (UTC)")
    say(columns(rows, head, whole=("HOOK",)) if rows else "No hooks: agent-mailer broker hook add NAME --user USER")


@app.command("disable", cls=FastCommand)
def disable(hook: Which, folder: DataFolder = None, database: DatabaseUrl = None) -> None:
    """Let nothing more come by a hook, until `enable`."""
    say(f"{_give(hook, 'disabled', data_of(folder, database))}: its calls are answered and ignored.")


@app.command("enable", cls=FastCommand)
def enable(hook: Which, folder: DataFolder = None, database: DatabaseUrl = None) -> None:
    """Let its calls become mail again."""
    say(f"{_give(hook, 'active', data_of(folder, database))}: its calls become mail again.")


@app.command("delete", cls=FastCommand)
def delete(hook: Which, folder: DataFolder = None, database: DatabaseUrl = None) -> None:
    """End a hook. What came by it stays."""
    say(f"{_give(hook, 'deleted', data_of(folder, database))}: deleted, its secret counts no more.")


@app.command("roll", cls=FastCommand)
def roll(hook: Which, folder: DataFolder = None, database: DatabaseUrl = None, as_json: Json = False) -> None:
    """Give a hook another secret. The one before counts no more, at once."""
    data = data_of(folder, database)
    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.hooks.rows import roll as rolled

    secret = _secret(data)

    def work(connection: Connection) -> Hook:
        owner, chosen = _chosen(connection, hook)
        return rolled(connection, owner.id, chosen.id)

    _tell(data, change(data, work, Act.HOOK_CHANGED), secret, as_json=as_json)


@app.command("deliveries", cls=FastCommand)
def deliveries(
    hook: Which,
    outcome: Annotated[
        str | None, typer.Option(metavar="sent|counted|resolved|ignored|failed", help="Only these.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest N.")] = 100,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """What came by a hook, and what became of it; the newest first."""
    data = data_of(folder, database)
    from agent_mailer.broker.hooks.history import deliveries_of
    from agent_mailer.outside.items import Outcome

    wanted = None if outcome is None else Outcome(one_of(outcome, list(Outcome), "--outcome"))

    def work(connection: Connection) -> list[Came]:
        owner, chosen = _chosen(connection, hook)
        return deliveries_of(connection, owner.id, chosen.id, wanted, limit)

    found = look(data, work)
    if as_json:
        json_out(found)
        return
    rows = [
        (
            one.id[:8],
            one.at[:19],
            printable(one.event, 30),
            one.outcome if one.occurrence_count < 2 else f"{one.outcome} ({one.occurrence_count})",
            one.reason,
            printable(f"{one.origin} {one.item}".strip(), 60),
        )
        for one in found
    ]
    head = ("DELIVERY", "CAME (UTC)", "EVENT", "OUTCOME", "REASON", "ABOUT")
    say(columns(rows, head, whole=("DELIVERY",)) if rows else "Nothing came by it.")


@app.command("callbacks", cls=FastCommand)
def callbacks(
    hook: Which,
    limit: Annotated[int, typer.Option(min=1, help="The newest N.")] = 100,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """What was told back by a hook, and what was not taken; the newest first."""
    data = data_of(folder, database)
    from agent_mailer.broker.hooks.callbacks import callbacks_of

    def work(connection: Connection) -> list[Callback]:
        owner, chosen = _chosen(connection, hook)
        return callbacks_of(connection, owner.id, chosen.id, limit)

    found = look(data, work)
    if as_json:
        json_out(found)
        return
    rows = [(one.message_id[:8], one.at[:19], one.state.value, str(one.tries), printable(one.why, 80)) for one in found]
    head = ("ANSWER", "CAME (UTC)", "", "TRIES", "WHY")
    say(columns(rows, head, whole=("ANSWER",)) if rows else "Nothing was told back by it.")


@app.command("retry", cls=FastCommand)
def retry(
    hook: Which,
    delivery: Annotated[
        str | None, typer.Argument(help="Its id in the list, or how that begins. Default: all that failed.")
    ] = None,
    folder: DataFolder = None,
    database: DatabaseUrl = None,
) -> None:
    """Have what failed tried again, now."""
    data = data_of(folder, database)
    from agent_mailer.broker.hooks.history import failed_of, make_due

    def work(connection: Connection) -> int:
        owner, chosen = _chosen(connection, hook)
        failed = failed_of(connection, owner.id, chosen.id)
        if delivery is not None:
            fix = f"agent-mailer broker hook deliveries {_name(chosen)} --outcome failed"
            failed = [pick(delivery, failed, "failed delivery", fix)]
        make_due(connection, owner.id, failed)
        return len(failed)

    many = change(data, work)
    say(f"{many} will be tried again within half a minute, while the broker runs." if many else "Nothing failed.")


def _give(which: str, standing: str, data: Data) -> str:
    from agent_mailer.broker.audit import Act
    from agent_mailer.broker.hooks.rows import Standing, set_standing

    wanted = Standing(standing)

    def work(connection: Connection) -> Hook:
        owner, chosen = _chosen(connection, which)
        return set_standing(connection, owner.id, chosen.id, wanted)

    act = Act.HOOK_DELETED if wanted is Standing.DELETED else Act.HOOK_CHANGED
    return _name(change(data, work, act))


def _tell(data: Data, hook: Hook, broker_secret: str, *, as_json: bool) -> None:
    from agent_mailer.broker.hooks.rows import secret_of

    url, secret = f"{broker_url(data)}{hook.path}", secret_of(broker_secret, hook.id, hook.version)
    if as_json:
        json_out({"hook": hook, "url": url, "secret": secret})
        return
    say(f"{url}\n")
    say(f"Secret: {secret}\n")
    if hook.kind == "github":
        say(
            "At GitHub: Settings, Webhooks, that URL as the broker is reached from there, application/json, the secret."
        )
    else:
        say("Its callers sign TIME.BODY with it (HMAC-SHA256): X-Agent-Mailer-Signature: t=TIME,v1=HEX")


def _hooks(connection: Connection) -> list[tuple[User, Hook]]:
    from agent_mailer.broker.hooks.rows import hooks_of
    from agent_mailer.broker.users.rows import all_users

    return [(user, hook) for user in all_users(connection) for hook in hooks_of(connection, user.id)]


def _name(hook: Hook) -> str:
    return hook.path.rpartition("/")[2]


def _chosen(connection: Connection, which: str) -> tuple[User, Hook]:
    """Raises MailerError, UsageFault."""
    found = _hooks(connection)
    for owner, hook in found:
        if which == _name(hook):
            return owner, hook
    chosen = pick(which, [hook.id for _, hook in found], "hook", LIST)
    return next((owner, hook) for owner, hook in found if hook.id == chosen)


def _team(connection: Connection, owner: User, name: str) -> str:
    from agent_mailer.broker.teams.rows import teams_of

    found = {team.name: team.id for team in teams_of(connection, owner.id)}
    if name not in found:
        known = ", ".join(printable(one) for one in list(found)[:10]) or "none yet"
        raise UsageFault("no_team", f"the user has no team {printable(name)}", f"there is: {known}")
    return found[name]


def _domain(connection: Connection, owner: User) -> str:
    """What addresses end with at this broker, as those of the user's agents do."""
    from agent_mailer.broker.agents.rows import agents_of
    from agent_mailer.cli.broker.serve import DEFAULT_DOMAIN

    ending = f"@{owner.username}."
    found = [one.address.partition(ending)[2] for one in agents_of(connection, owner.id) if ending in one.address]
    return found[-1] if found else os.environ.get("AGENT_MAILER_DOMAIN") or DEFAULT_DOMAIN


def _secret(data: Data) -> str:
    """The broker's: a hook's follows from it. Raises ConfigFault."""
    from agent_mailer.broker.data import secret_of

    if not os.environ.get("AGENT_MAILER_SECRET_KEY") and not (data.folder / "secret").exists():
        raise ConfigFault(
            "no_secret",
            "a hook's secret follows from the broker's, and that is not known here",
            "set AGENT_MAILER_SECRET_KEY as the broker has it, or start the broker once: agent-mailer broker serve",
        )
    return secret_of(data, "127.0.0.1", os.environ)
