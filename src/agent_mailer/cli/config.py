"""`config`: show, set and edit the configuration of a workdir."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from agent_mailer.cli.completion import some_key
from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import FastCommand, group
from agent_mailer.cli.terminal.printing import json_out, note, say
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.errors import ConfigFault, ExitCode, MailerError, UsageFault, quoted

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace

MOST_UNSEEN = 64 * 1024

app = group("config", "Show and change the agent's configuration.")


@app.command("show", cls=FastCommand)
def show(workdir: Workdir = None, as_json: Json = False) -> None:
    """Print every key, its value and where that comes from."""
    from agent_mailer.config import keys
    from agent_mailer.config_faults import EDIT, meant
    from agent_mailer.names import printable
    from agent_mailer.setup.config_file import shown, visible

    place = configured(workdir)
    values = _plain(place)
    loaded = place.loaded
    if as_json:
        json_out(
            {
                "workdir": str(place.workdir),
                "file": str(place.folder.config),
                "keys": {
                    key: {
                        "value": visible(key, values[key]),
                        "source": loaded.source(key).value,
                    }
                    for key in keys()
                },
                "unknown": list(loaded.unknown),
                "untrusted": list(place.trust.verdict.changed),
            }
        )
        return
    _tell_untrusted(place)
    rows = [(key, shown(key, values[key]), loaded.source(key).value) for key in keys()]
    say(columns(rows, ("key", "value", "from"), whole=("key", "from")))
    for key in loaded.unknown:
        note(f"nothing here knows the key {printable(key, 60)}{meant(key)} ({EDIT})")


@app.command("set", cls=FastCommand, context_settings={"ignore_unknown_options": True})
def set_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key.", autocompletion=some_key)],
    value: Annotated[
        list[str],
        typer.Argument(
            metavar="VALUE",
            help="Its value; for `command` the words of the command line. - for a secret: from standard input.",
        ),
    ],
    workdir: Workdir = None,
) -> None:
    """Change one key, or one of a table (`notify.command`); comments and unknown keys stay."""
    from agent_mailer.config import SECRET_KEYS
    from agent_mailer.setup.config_file import ConfigFile, shown
    from agent_mailer.trust.standing import widening
    from agent_mailer.trust.workdir import refuse_in_a_turn

    place = configured(workdir)
    typed = _typed(key, _unseen(value) if key in SECRET_KEYS and value == ["-"] else value)
    if key in widening():
        refuse_in_a_turn(f"a key that widens what the agent may do ({key})", os.environ)
    trusted = place.trust.verdict
    _check(place, key, typed)
    file = ConfigFile(place.folder.config, place.disk)
    before = file.get(key)
    file.set(key, typed)
    with place.trust.changing():
        file.save()
        if key in widening():
            place.trust.follow(trusted, "config set", (key,))
    say(f"{key}: {shown(key, before)} -> {shown(key, typed)}")
    if key == "address":
        _tell_left(place, str(typed))
    _tell_when(place, [key])
    _tell_untrusted(place)
    _tell_masked(key)
    _tell_team(place, key)


@app.command("get", cls=FastCommand)
def get(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key.", autocompletion=some_key)],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Print the value of one key, or of one in a table (`notify.command`), as it counts now."""
    from agent_mailer.config import SECRET_KEYS
    from agent_mailer.config_values import is_words
    from agent_mailer.setup.config_file import shown, visible

    place = configured(workdir)
    is_words(key)  # whether there is such a key
    value: object = _plain(place)
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if as_json:
        source = place.loaded.source(key.partition(".")[0]).value
        json_out({"key": key, "value": visible(key, value), "source": source})
    else:
        say("(set, not shown)" if key in SECRET_KEYS and value else shown(key, value))
    _tell_untrusted(place)


@app.command("unset", cls=FastCommand)
def unset(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key.", autocompletion=some_key)],
    workdir: Workdir = None,
) -> None:
    """Take one key, or one of a table, out of the file: its default counts again."""
    from agent_mailer.config_values import is_words
    from agent_mailer.setup.config_file import ConfigFile, check_file, shown
    from agent_mailer.trust.standing import widening
    from agent_mailer.trust.workdir import refuse_in_a_turn

    place = configured(workdir)
    is_words(key)  # whether there is such a key
    if key in widening():
        refuse_in_a_turn(f"a key that widens what the agent may do ({key})", os.environ)
    trusted = place.trust.verdict
    file = ConfigFile(place.folder.config, place.disk)
    before = file.get(key)
    if before is None:
        say(f"{key} is not in {place.folder.config}: nothing was changed")
        _tell_masked(key)
        return
    file.unset(key)
    with place.trust.changing():
        file.save()
        if key in widening():
            place.trust.follow(trusted, "config unset", (key,))
    check_file(place.folder.config)
    say(f"{key}: {shown(key, before)} -> not set")
    _tell_when(place, [key])
    _tell_untrusted(place)
    _tell_masked(key)
    _tell_team(place, key)
    for name, flag in place.missing() if key.partition(".")[0] == key else []:
        if name == key:
            note(f"warning: watch needs {name}: agent-mailer config set {name} VALUE, or {flag}")


@app.command("edit", cls=FastCommand)
def edit(workdir: Workdir = None) -> None:
    """Open the configuration in $EDITOR; only a valid file replaces the old one."""
    from agent_mailer.cli.terminal.questions import compared, edited
    from agent_mailer.config import leaves
    from agent_mailer.config_values import read_file
    from agent_mailer.disk import Sync
    from agent_mailer.setup.config_file import check_file, publish
    from agent_mailer.trust.standing import found_at
    from agent_mailer.trust.workdir import in_a_turn

    place = configured(workdir)
    trusted, raw = place.trust.verdict, _raw(place)
    path = place.folder.config
    copy = path.with_name(f"config-{os.getpid()}.edit.toml")
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = b""
    place.disk.replace(copy, before, sync=Sync.NONE)
    while True:
        after = edited(copy, path, before, place.disk, "agent-mailer config set KEY VALUE")
        if after is None:
            return
        try:
            check_file(copy)
            break
        except ConfigFault as fault:
            if not (sys.stdin.isatty() and sys.stdout.isatty()):
                why = f"{fault.message}; {path} was left as it is, your text is {copy}"
                raise ConfigFault(fault.code, why, compared(path, copy)) from None
            note(f"error: {fault.message}")
            if not typer.confirm("Edit again? (no: the old file stays)", default=True):
                note(f"your text is {copy}")
                raise typer.Exit(ExitCode.CONFIG) from None
    with place.trust.changing():
        publish(path, after, before, place.disk)
        place.disk.remove(copy)
        if not in_a_turn(os.environ):
            place.trust.follow(trusted, "config edit")
    say(f"{path} was changed")
    now = read_file(path)
    _tell_when(place, [leaf.name for leaf in leaves() if found_at(raw, leaf.name) != found_at(now, leaf.name)])
    _tell_untrusted(place)


@app.command("trust", cls=FastCommand)
def trust(
    workdir: Workdir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Trust it without being asked.")] = False,
    only_hash: Annotated[
        bool, typer.Option("--print", help="Print the hash of what is there, for AGENT_MAILER_TRUST; trust nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what differs between what is trusted and what is there, and trust what is there.

    It is about the keys that widen what the agent may do, and about templates in place of ours.
    """
    from agent_mailer.cli.trusting import NO_WALL, give, require_trustable, tell
    from agent_mailer.trust.workdir import refuse_in_a_turn
    from agent_mailer.views.trusted import trust_view

    place = configured(workdir)
    # A file that says nothing sensible is told of, not trusted.
    place.trust.load()
    verdict = place.trust.verdict
    view = trust_view(str(place.workdir), verdict)
    if only_hash:
        say(view.hash)
        return
    if as_json and not yes:
        json_out(view)
        return
    refuse_in_a_turn("config trust", os.environ)
    require_trustable(place, verdict)
    if view.why:
        note(view.why)
    if yes:
        # First: no reader who goes leaves it undone.
        give(place, verdict)
    tell(view)
    if not yes:
        if not view.differences:
            say("what is there is trusted")
            return
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            again = f"agent-mailer config trust --yes -C {quoted(place.workdir)}"
            raise UsageFault("not_asked", "nobody can be asked here; nothing was changed", again)
        if not typer.confirm("Do you trust what is there?", default=False):
            raise typer.Exit(ExitCode.FAILED)
        give(place, verdict)
    say(f"trusted: {view.hash}")
    note(NO_WALL)
    _tell_when(place, [one.name for one in view.differences])


def _unseen(typed: list[str]) -> list[str]:
    """The words that come on standard input, which no list of processes shows. Raises UsageFault."""
    if sys.stdin.isatty():
        note("one a line; the end is Ctrl-D")
    found = sys.stdin.read(MOST_UNSEEN).split()
    if not found:
        raise UsageFault("empty", f"{typed[0]} is standard input, and there was nothing in it", "")
    return found


def _typed(key: str, words: list[str]) -> object:
    """The words as the key's type; a list takes one quoted string or its words as they are."""
    from agent_mailer.config_values import check_value, is_words, parse_value

    if len(words) > 1 and is_words(key):
        return words
    if len(words) > 1:
        raise UsageFault("too_many", f"{key} has one value", f'agent-mailer config set {key} "{" ".join(words)}"')
    try:
        typed = parse_value(key, words[0])
    except ValueError as error:
        raise UsageFault("bad_quoting", f"{key}: {error}", "close the quote") from None
    check_value(key, typed)
    return typed


def _check(place: Workplace, key: str, typed: object) -> None:
    """Raises UsageFault for what no watcher would start with here."""
    if key == "address":
        from agent_mailer.setup.workdir import require_handle, require_nobodys

        require_nobodys(place, str(typed))
        if place.in_folder:
            require_handle(str(typed))
    elif key == "reserve" and isinstance(typed, (list, tuple)) and typed:
        from agent_mailer.at_server import real_project_of
        from agent_mailer.reservations.patterns import checked

        try:
            checked(typed, real_project_of(place))
        except UsageFault as fault:
            fix = "agent-mailer config set reserve 'src/**'"
            raise UsageFault(fault.code, f"reserve: {fault.message}", fix) from None


def _tell_left(place: Workplace, address: str) -> None:
    """The mailbox of the address that the agent had until now still takes mail."""
    from agent_mailer.mailbox.maildir.layout import has_mailbox

    before = place.handle
    if not place.in_folder or not before or before == address:
        return
    with suppress(MailerError, OSError):
        if has_mailbox(place.maildir_root(), before):
            back = f"agent-mailer config set address {before}, then: agent-mailer agent rename {address}"
            note(f"warning: mail to {before} still lands in its mailbox; where nobody else reads that, move it: {back}")


def _tell_when(place: Workplace, names: Iterable[str]) -> None:
    """When the watcher that runs, if one does, takes what was changed."""
    from agent_mailer.config import leaves
    from agent_mailer.config_tables import Takes
    from agent_mailer.state.lock import holder_of

    holder = holder_of(place.folder.path / ".lock")
    if holder is None:
        return
    takes = {leaf.name: leaf.takes for leaf in leaves()}
    when: dict[Takes, list[str]] = {}
    for name in names:
        when.setdefault(takes.get(name, Takes.TURN), []).append(name)
    words = {Takes.LIVE: "at once", Takes.TURN: "for its next turn", Takes.RESTART: "when it is started again"}
    for one in sorted(when, key=list(Takes).index):
        note(f"the watcher that runs (pid {holder.process.pid}) takes {', '.join(when[one])} {words[one]}")


def _tell_untrusted(place: Workplace) -> None:
    """What else in the files does not count as it is there."""
    from agent_mailer.config_faults import is_mistyped

    verdict = place.trust.reload()
    try:
        there = place.trust.as_it_is()
    except ConfigFault:
        return  # it is said by whoever reads it next, and nothing of it counts
    changed = verdict.changed
    if fault := is_mistyped(place.folder.config, there, verdict.gone):
        note(f"warning: {fault.message} ({fault.fix})")
    elif changed:
        note(f"warning: not trusted, so it does not count: {', '.join(changed)} (agent-mailer config trust)")


def _raw(place: Workplace) -> dict[str, object]:
    from agent_mailer.config_values import read_file

    try:
        return read_file(place.folder.config)
    except ConfigFault:
        return {}


def _tell_masked(key: str) -> None:
    name = f"AGENT_MAILER_{key.upper()}"
    if name in os.environ:
        note(f"warning: {name} is set and counts before the file")


def _tell_team(place: Workplace, key: str) -> None:
    """In a team the team's file has the last word on what it names."""
    from agent_mailer.teams.stopped import AGENTS, at

    if place.workdir.parent.name != AGENTS:
        return
    from agent_mailer.teams.making import file_with

    if (file := file_with(place.workdir, key)) is not None:
        up = f"amp up {at(file.parent)}"
        note(f"warning: {key} stands in {file}: change it there, too, or the next {up} writes it again")


def _plain(place: Workplace) -> dict[str, object]:
    """The values as plain ones: enums as their text, tables as dictionaries."""
    import msgspec

    values = msgspec.to_builtins(place.config)
    if not isinstance(values, dict):
        raise MailerError("fault", "the configuration is no table")
    return values
