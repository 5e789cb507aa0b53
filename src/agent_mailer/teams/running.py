"""Where a team's watchers run, and how they are started and stopped together: windows of tmux, processes, services.

A watcher is known by the lock of its workdir, wherever it was started: what runs is never guessed from a list of ours.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from agent_mailer.amounts import duration
from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk, Sync
from agent_mailer.errors import BusyFault, MailerError, UnavailableFault, quoted
from agent_mailer.names import printable
from agent_mailer.process.commands import CommandApart, start_apart
from agent_mailer.process.environment import find_tool
from agent_mailer.process.handle import ProcessIdentity, is_alive, send, wait_gone
from agent_mailer.service.folder import Units, units_folder
from agent_mailer.service.install import own_program, plan, put_in_place, require_ready, uninstall
from agent_mailer.service.manager import UserManager
from agent_mailer.service.unit import Instance
from agent_mailer.state.lock import LockHolder, holder_of
from agent_mailer.state.workdirs import known_workdirs
from agent_mailer.teams.kept import changing, standing
from agent_mailer.teams.making import workplaces
from agent_mailer.teams.session import Session
from agent_mailer.teams.stopped import AGENTS, at
from agent_mailer.views.pulse import Ping, ping

READY_SECONDS = 60.0
STOP_SECONDS = 900.0
"""A stop waits for turns, as long as `stop_grace` gives them."""

ENDS_BY_ITSELF = 1.0
"""A watcher without turns that was told to end has ended by then."""

LOOK_EVERY = 0.02


class Where(StrEnum):
    TMUX = "tmux"
    DETACHED = "detached"
    SYSTEMD = "systemd"


class TeamView(msgspec.Struct, frozen=True):
    """A team on one line. `mail` is the broker's URL, or `folder`; `watched`: how many of its agents are.
    What a `fault` of its file keeps from being known is left out; else it is what was last taken over.
    """

    team: str
    directory: str
    mail: str | msgspec.UnsetType = msgspec.UNSET
    agents: int | msgspec.UnsetType = msgspec.UNSET
    watched: int | msgspec.UnsetType = msgspec.UNSET
    fault: str | msgspec.UnsetType = msgspec.UNSET
    fix: str | msgspec.UnsetType = msgspec.UNSET


class Ended(msgspec.Struct, frozen=True):
    """A watcher that ended instead of watching, and its last words."""

    name: str
    words: str


def watchers(places: Mapping[str, Workplace]) -> dict[str, ProcessIdentity]:
    """Who watches now, by the agent's name."""
    return {name: holder.process for name, holder in _holders(places).items()}


def watchers_in(directory: Path) -> dict[str, ProcessIdentity]:
    """Who watches in that team's folder, whatever its file says."""
    found = {path.parent.parent for path in directory.glob(f"{AGENTS}/*/.agent-mailer/config.toml")}
    return watchers({workdir.name: Workplace(workdir) for workdir in found})


def _holders(places: Mapping[str, Workplace]) -> dict[str, LockHolder]:
    found = {name: holder_of(place.folder.path / ".lock") for name, place in places.items()}
    return {name: holder for name, holder in found.items() if holder is not None}


def seen(directory: Path) -> TeamView:
    """The team in that folder, as far as it can be read."""
    view = TeamView(directory.name, str(directory))
    try:
        now = standing(directory)
        team, fault = now.team, now.fault
        view = TeamView(team.name, str(directory), team.broker_url or "folder", len(team.members))
        if fault is not None:
            view = msgspec.structs.replace(view, fault=fault.message, fix=fault.fix)
        return msgspec.structs.replace(view, watched=len(watchers(workplaces(team, directory))))
    except MailerError as fault:
        return msgspec.structs.replace(view, fault=fault.message, fix=fault.fix)


def require_no_stranger(places: Mapping[str, Workplace], session: str) -> None:
    """Raises BusyFault where a watcher that does not say who it is holds a workdir, as that of another client does."""
    for name, place in places.items():
        lock = place.lock()
        try:
            lock.acquire(briefly=True)
        except BusyFault:
            if name in watchers({name: place}):
                continue
            fix = f"tmux kill-session -t '={session}', or end it where it runs; then start again"
            raise BusyFault("workdir_busy", f"another program watches {place.workdir}", fix) from None
        lock.release()


def require_possible(team: str, directory: Path, places: Mapping[str, Workplace], where: Where) -> None:
    """Raises MailerError for what a start of these there would be refused for. Nothing is begun or ended."""
    require_no_stranger(places, f"amp-{team}")
    own_program(os.environ.get("PATH", os.defpath))
    match where:
        case Where.TMUX:
            Session(team, directory).require_ours()
        case Where.SYSTEMD:
            units, manager = Units(units_folder(os.environ), Disk()), UserManager(os.environ)
            for instance in [_service(name, place, units) for name, place in places.items()]:
                require_ready(manager, units, instance)


def start(team: str, directory: Path, places: Mapping[str, Workplace], where: Where) -> Iterator[str]:
    """Start those that do not run yet; yields a line for each that watches. Raises MailerError where one does not.

    What is refused is refused by the call itself, before anything is begun.
    """
    running = watchers(places)
    ending = _told_to_end(places, running)
    stay = [name for name in running if name not in ending]
    require_possible(team, directory, {name: place for name, place in places.items() if name not in stay}, where)
    return _start(team, directory, places, where, ending, stay)


def _start(
    team: str,
    directory: Path,
    places: Mapping[str, Workplace],
    where: Where,
    ending: Mapping[str, ProcessIdentity],
    stay: Sequence[str],
) -> Iterator[str]:
    """`ending` are to end first, `stay` watch already."""
    if ending:
        yield from _take_over(ending)
    wanted = {name: place for name, place in places.items() if name not in stay}
    program = str(own_program(os.environ.get("PATH", os.defpath)))
    words = [program, "watch", "--no-interactive"]
    match where:
        case Where.TMUX:
            session = Session(team, directory)
            if lost := session.out_of_reach():
                yield lost
            session.open([program, "team", "status", "--watch", "--dir", str(directory)])
            for name, place in wanted.items():
                session.show(name, place.workdir, words)

            def ended() -> list[Ended]:
                return [Ended(name, said) for name, said in session.ended().items() if name in wanted]
        case Where.DETACHED:
            started = {name: _start_apart(place, words, directory) for name, place in wanted.items()}

            def ended() -> list[Ended]:
                over = [name for name, command in started.items() if command.status() is not None]
                return [Ended(name, _words_in(_errors(directory, name))) for name in over]
        case Where.SYSTEMD:
            _start_services(wanted)

            def ended() -> list[Ended]:
                return []

    yield from _until_ready(wanted, ended)
    for name in stay:
        yield f"{name} watches already"


def _told_to_end(places: Mapping[str, Workplace], running: Mapping[str, ProcessIdentity]) -> dict[str, ProcessIdentity]:
    """Those of `running` that end, or have ended since. A signal that is on its way is heeded before a ping is."""
    asked = {name: found for name in running if (found := ping(places[name])) is not None}
    while asked:
        for name, one in list(asked.items()):
            if one.poll() is not None or not is_alive(running[name]):
                asked.pop(name).end()
        if asked:
            time.sleep(LOOK_EVERY)
    holders = _holders(places)
    stay = {name for name, holder in holders.items() if not holder.leaving and holder.process == running.get(name)}
    return {name: process for name, process in running.items() if name not in stay}


def _take_over(ending: Mapping[str, ProcessIdentity]) -> Iterator[str]:
    """Wait until they have ended; what turns they still give time are handed over. Raises UnavailableFault."""
    if not asyncio.run(wait_gone(list(ending.values()), ENDS_BY_ITSELF)):
        for process in ending.values():
            send(process, signal.SIGUSR1)
        if not asyncio.run(wait_gone(list(ending.values()), READY_SECONDS)):
            pid = next(process.pid for process in ending.values() if is_alive(process))
            raise UnavailableFault("not_stopped", f"a watcher (pid {pid}) was told to end, and does not", f"kill {pid}")
    for name in ending:
        yield f"{name} was about to end, and is started anew"


def _until_ready(wanted: Mapping[str, Workplace], ended: Callable[[], list[Ended]]) -> Iterator[str]:
    """A watcher is ready when its loop answers. Raises MailerError for the first that ends instead."""
    waiting, asked = dict(wanted), dict[str, Ping]()
    until = time.monotonic() + READY_SECONDS
    while waiting:
        here = watchers(waiting)
        for name in list(waiting):
            if name in here and name not in asked:
                asked[name] = Ping(waiting[name])
            if name in asked and (heard := asked[name].poll()) is not None:
                del asked[name]
                if heard.turns:
                    del waiting[name]
                    yield f"{name} watches (pid {here[name].pid})" if name in here else f"{name} watches"
        for one in ended():
            if one.name in waiting and one.name not in watchers(waiting):
                said = _last_words(one.words)
                fix = f"agent-mailer verify -C {quoted(waiting[one.name].workdir)}"
                raise MailerError("not_started", f"the watcher of {one.name} ended: {said}", fix)
        if waiting and time.monotonic() > until:
            name, place = next(iter(waiting.items()))
            raise UnavailableFault(
                "not_ready",
                f"the watcher of {name} does not answer after {READY_SECONDS:.0f} s",
                f"agent-mailer status -C {quoted(place.workdir)}",
            )
        if waiting:
            time.sleep(LOOK_EVERY)


def _last_words(text: str) -> str:
    """The error it ended with, else its last lines; without what tmux says of its window."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Pane is dead")]
    begins = [number for number, line in enumerate(lines) if line.startswith("error:")]
    return printable(" ".join(lines[begins[-1] :] if begins else lines[-3:]), 400) or "it said nothing"


def stop(
    team: str, directory: Path, places: Mapping[str, Workplace], *, now: bool = False, hand_over: bool = False
) -> Iterator[str]:
    """Stop those that run, and close the session; yields lines, also what is waited for. `hand_over`: turns go on, the
    next watcher has them. Raises UnavailableFault where one does not end.
    """
    holders = _holders(places)
    running = {name: holder.process for name, holder in holders.items()}
    units = Units(units_folder(os.environ), Disk())
    services = {name: found for name in running if (found := units.of(places[name].workdir)) is not None}
    names = [] if hand_over else [instance.unit for instance in services.values()]
    if names:
        UserManager(os.environ).do("stop", "--no-block", *names)
    for name, holder in holders.items():
        heard = holder.leaving and not (now or hand_over)
        if not heard and (now or hand_over or name not in services):
            send(holder.process, signal.SIGUSR1 if hand_over else signal.SIGTERM)
        yield f"{name} {'ends already' if heard else 'hands over' if hand_over else 'ends now' if now else 'stops'}"
    if now and not hand_over:
        _say_again(places, running)
    yield from _until_gone(directory, places, running, now=now or hand_over)
    if names:
        UserManager(os.environ).do("stop", *names)
    with suppress(UnavailableFault), changing(directory, Disk()):
        session = Session(team, directory)
        # Another may have started it again meanwhile.
        if session.exists() and session.is_ours() and not watchers(places):
            session.kill()
            yield f"closed the tmux session {session.name}"
        elif lost := session.out_of_reach():
            yield lost


def _say_again(places: Mapping[str, Workplace], running: Mapping[str, ProcessIdentity]) -> None:
    """A second word ends what has time; of a signal that is not heard yet a second one is no other."""
    until = time.monotonic() + ENDS_BY_ITSELF
    while time.monotonic() < until and not all(holder.leaving for holder in _holders(places).values()):
        time.sleep(LOOK_EVERY)
    for process in running.values():
        send(process, signal.SIGTERM)


def _until_gone(
    directory: Path, places: Mapping[str, Workplace], running: Mapping[str, ProcessIdentity], *, now: bool
) -> Iterator[str]:
    """Wait for their end; who takes longer is told with what he works on, and what ends it. Raises UnavailableFault."""
    if asyncio.run(wait_gone(list(running.values()), ENDS_BY_ITSELF)):
        return
    for name in [name for name, process in running.items() if is_alive(process)]:
        yield f"waiting for {name}: {_at_work(places[name], graced=not now)}"
    if not now:
        this = at(directory)
        yield f"to end it at once: amp stop --now {this}; to leave turns to the next start: amp stop --hand-over {this}"
    if asyncio.run(wait_gone(list(running.values()), STOP_SECONDS)):
        return
    name = next(iter(watchers(places)), "")
    look = f"agent-mailer status -C {quoted(places[name].workdir)}" if name else "amp list"
    raise UnavailableFault("not_stopped", f"the watcher of {name} does not end", look)


def _at_work(place: Workplace, *, graced: bool) -> str:
    """What keeps it from its end."""
    turns = place.state.turns
    moment = place.clock.now()
    told = [
        f"mail from {printable(turn.envelope.sender, 60)} in {printable(turn.thread_id, 60)}"
        f", for {duration(max(0.0, moment - turn.started_at))}"
        for turn in turns.indexed()
        if not turns.is_settled(turn.turn_id)
    ]
    grace = place.config.stop_grace
    given = f" (it has stop_grace = {grace:g} seconds)" if graced and grace else ""
    return f"it works on {'; '.join(told)}{given}" if told else "it ends"


def dismiss(directory: Path, places: Mapping[str, Workplace]) -> Iterator[str]:
    """Agents that are in the team no more: their watchers are told to end, nobody is missed there, their folders stay.

    Raises MailerError.
    """
    running = _holders(places)
    remove_services(places)
    for name, place in places.items():
        # A second word, where this is said again after a kill, would end what has time.
        if name in running and not running[name].leaving:
            send(running[name].process, signal.SIGTERM)
        with suppress(OSError):
            known_workdirs(place.disk).forget(place.workdir)
        ends = "its watcher ends, " if name in running else ""
        yield f"{name} is in the team no more: {ends}{directory / AGENTS / name} stays"


def _start_apart(place: Workplace, words: Sequence[str], directory: Path) -> CommandApart:
    """A process that outlives this one and its terminal; only what it complains of is kept."""
    errors = _errors(directory, place.workdir.name)
    Disk().make_directory(errors.parent)
    Disk().replace(errors, b"", sync=Sync.NONE)
    return start_apart(words, env=os.environ, cwd=place.workdir, errors=errors)


def _errors(directory: Path, name: str) -> Path:
    return directory / "logs" / f"{name}.err"


def _words_in(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("utf-8", "replace")[-4000:]
    return ""


def _start_services(wanted: Mapping[str, Workplace]) -> None:
    """Installed and started under the user's systemd. Raises MailerError."""
    units, manager = Units(units_folder(os.environ), Disk()), UserManager(os.environ)
    for name, place in wanted.items():
        list(put_in_place(manager, units, _service(name, place, units), start=True))


def _service(name: str, place: Workplace, units: Units) -> Instance:
    """As it is installed, else under the agent's name. Raises MailerError where it cannot be."""
    return plan(place, units, name=None if units.of(place.workdir) else name, more=None, allow_sudo=None)


def remove_services(places: Mapping[str, Workplace]) -> None:
    """The user's services of these workdirs, if any. Raises MailerError."""
    units = Units(units_folder(os.environ), Disk())
    found = [instance for place in places.values() if (instance := units.of(place.workdir)) is not None]
    if found:
        list(uninstall(UserManager(os.environ), units, found))


def where_now(team: str, directory: Path, places: Mapping[str, Workplace]) -> Where | None:
    """Where it runs, as far as that can be seen; None = it does not."""
    running = watchers(places)
    if not running:
        return None
    units = Units(units_folder(os.environ), Disk())
    if any(units.of(places[name].workdir) is not None for name in running):
        return Where.SYSTEMD
    with suppress(UnavailableFault):
        session = Session(team, directory)
        if session.out_of_reach() or (session.exists() and session.is_ours()):
            return Where.TMUX
    return Where.DETACHED


def where_possible(directory: Path, chosen: Where | None, *, terminal: bool) -> Where:
    """tmux where it is there and a person looks, unless something was chosen."""
    if chosen is not None:
        return chosen
    return Where.TMUX if terminal and find_tool("tmux", [directory]) is not None else Where.DETACHED
