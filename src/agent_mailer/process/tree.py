"""Every process of a turn, and ending them all.

A process belongs to a turn if it was started with the turn's id in its environment, is in the holder's session, or
descends from one that belongs. The holder inherits whatever below it loses its parent, and stays while there is any, so
that a daemon of its own session with a cleared environment descends from it too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Collection, Sequence

import msgspec

from agent_mailer.process.handle import (
    ProcessIdentity,
    carries,
    identity_of,
    is_alive,
    reap,
    send,
    strangers,
    wait_gone,
)
from agent_mailer.process.holder import HOLDER, LEAVE, SCOPE, TURN_ID_VARIABLE
from agent_mailer.processes import HAS_PROC, children, command_line, in_unit, namespaces_of, read_stat, scan

GRACE = 5.0
CONFINES = "AGENT_MAILER_CONFINES"
"""Set for what holds an agent in a sandbox and ends it when it is itself asked to end; not for the agent."""
_CONFINES = f"{CONFINES}=1".encode()
_KILL_BUDGET = 2.5
_HOLDER_PATIENCE = 1.5
_HOLDER_LOOK = 0.03
_RESCAN = 0.2


class EndReport(msgspec.Struct, frozen=True):
    """How ending a tree went: how many were asked, how many killed, who lives in spite of it, seconds it took."""

    signalled: int
    killed: int
    survivors: tuple[ProcessIdentity, ...]
    seconds: float


def members(
    turn_id: str,
    holder: ProcessIdentity | None,
    known: Collection[ProcessIdentity] = (),
    *,
    left_nothing: bool = False,
) -> list[ProcessIdentity]:
    """The live processes of the turn, the holder among them; never this process nor pid 1.

    `holder` is one that we have started, or of which `adopt` knows that it is the turn's. `known` are members found
    before: they and what descends from them belong even if their parents are gone by now. `left_nothing`: as `end_tree`
    has it.
    """
    if not HAS_PROC:
        return [holder] if holder is not None and is_alive(holder) else []
    since = holder.started if holder is not None and holder.of_this_life else 0
    # Whoever bears the turn's id was started after the holder; that it left nothing tells of all others.
    after = holder.pid if holder is not None and since and left_nothing else 0
    table, found = scan(f"{TURN_ID_VARIABLE}={turn_id}".encode(), since, after)
    if holder is None:
        # Whoever holds a session of the turn is gone, or one of it.
        sessions = {table[pid].session for pid in found} - {0}
        sessions = {leader for leader in sessions if leader in found or leader not in table}
        found |= {pid for pid, stat in table.items() if stat.session in sessions}
    elif _holds_its_session(holder):
        found |= {pid for pid, stat in table.items() if stat.session == holder.pid}
        if holder.pid in table:
            # Who was looked at before its parent, which then ended, is the holder's child by now.
            found |= children(holder.pid) & set(table)
        else:
            # What it had inherited was left to us.
            found |= {pid for pid in strangers() if pid in table and table[pid].started >= holder.started}
    found |= in_unit(SCOPE.format(turn_id)) & set(table)
    found |= {
        process.pid
        for process in known
        if process.of_this_life and process.pid in table and table[process.pid].started == process.started
    }
    untouchable = {os.getpid(), 1}
    found -= untouchable
    while born := {pid for pid, stat in table.items() if stat.parent in found} - found - untouchable:
        found |= born
    return [identity_of(table[pid]) for pid in sorted(found)]


async def end_tree(
    turn_id: str,
    holder: ProcessIdentity | None,
    *,
    grace: float = GRACE,
    first_signal: int = signal.SIGTERM,
    left_nothing: bool = False,
) -> EndReport:
    """End every process of the turn: ask with `first_signal`, kill after `grace` seconds, the holder last.

    The holder is left to record how the agent ended, and is killed only if it does not go when it is told, or if what
    is below it cannot be ended: it would wait for that for ever. Takes at most `grace` + 2.5 seconds. `left_nothing`:
    the holder has left by itself, and nobody descends from it.
    """
    started = time.monotonic()
    kill_from = started + grace
    give_up = kill_from + _KILL_BUDGET
    signalled: set[ProcessIdentity] = set()
    killed: set[ProcessIdentity] = set()
    known: set[ProcessIdentity] = set()
    alone_since: float | None = None
    empty_scans = 0
    found: list[ProcessIdentity] = []
    # A process may fork between the look and the signal: only two looks in a row that find nobody end this. Below a
    # holder that has left by itself nobody is left who could; one look finds who bears the turn's id elsewhere.
    enough = 1 if left_nothing else 2
    while empty_scans < enough and time.monotonic() < give_up:
        found = members(turn_id, holder, known, left_nothing=enough == 1)
        known = set(found)
        now = time.monotonic()
        if not found:
            empty_scans += 1
            await asyncio.sleep(0)
            continue
        empty_scans, enough = 0, 2
        agents = [process for process in found if process != holder] if HAS_PROC else found
        if not agents:
            alone_since = now if alone_since is None else alone_since
            if now >= min(alone_since + _HOLDER_PATIENCE, give_up - _RESCAN):
                killed.update(process for process in found if send(process, signal.SIGKILL))
            else:
                send(found[0], LEAVE)
            await wait_gone(found, _HOLDER_LOOK)
            continue
        alone_since = None
        if now < kill_from:
            asked = [process for process in _within(agents) if process not in signalled]
            signalled.update(process for process in asked if _ask(process, first_signal))
        else:
            killed.update(process for process in agents if send(process, signal.SIGKILL))
        await wait_gone(agents, min(_RESCAN, kill_from - now) if now < kill_from else _RESCAN)
    if holder is not None:
        if holder in found and send(holder, signal.SIGKILL):
            killed.add(holder)
            await wait_gone([holder], _RESCAN)
        reap(holder)
    survivors = tuple(process for process in found if is_alive(process))
    return EndReport(len(signalled), len(killed), survivors, time.monotonic() - started)


async def sweep(turn_id: str, *, grace: float = GRACE) -> EndReport:
    """End what is left of a turn whose holder is not known, or long gone."""
    holder = next((process for process in members(turn_id, None) if _is_holder(process)), None)
    return await end_tree(turn_id, holder, grace=grace)


def _is_holder(process: ProcessIdentity) -> bool:
    return HOLDER in command_line(process.pid)


def _within(processes: Sequence[ProcessIdentity]) -> list[ProcessIdentity]:
    """All but those who hold others of them in a pid namespace: with their end these would be killed, not asked.

    A sandbox of several processes has marked them.
    """
    depth = {process.pid: namespaces_of(process.pid) for process in processes}
    if len(set(depth.values())) < 2:
        return list(processes)
    parents = {process.pid: stat.parent for process in processes if (stat := read_stat(process.pid)) is not None}
    holders = {parent for pid, parent in parents.items() if depth[pid] > depth.get(parent, depth[pid])}
    asked = [process for process in processes if process.pid not in holders]
    return [process for process in asked if not carries(process, _CONFINES)] or asked


def _ask(process: ProcessIdentity, first_signal: int) -> bool:
    # One that was stopped takes the signal only when it goes on.
    return send(process, first_signal) and (send(process, signal.SIGCONT) or True)


def _holds_its_session(holder: ProcessIdentity) -> bool:
    """The session with the holder's pid is the holder's still.

    The system does not give out a pid again while a session bears it, so a stranger at the holder's pid means that the
    session is empty.
    """
    leader = read_stat(holder.pid)
    return holder.of_this_life and (leader is None or leader.started == holder.started)
