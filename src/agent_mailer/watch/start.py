"""A claimed turn becomes a process: its folder prepared, its record durable, and only then the gate opened (I3)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from agent_mailer.approvals.turn import write as write_approvals
from agent_mailer.confine.port import TurnPlaces
from agent_mailer.events import EventName
from agent_mailer.identity import documents_in, holds_little, obeyed_by_git
from agent_mailer.mailbox.port import Contact, MailboxUnavailable, Message, Progress, Stage
from agent_mailer.meanwhile import meanwhile
from agent_mailer.names import GLOBAL_NOTE, memory_file
from agent_mailer.process.holder import PROMPT_FILE, Supervised, start_behind_gate
from agent_mailer.process.scope import Start, start_limited
from agent_mailer.prompts import Words, words_of
from agent_mailer.runtimes.port import Launch, ToolServer, TurnRequest
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.state.turns import envelopes_of
from agent_mailer.turn_tools import ISOLATED
from agent_mailer.turn_tools.folder import DOCUMENTS, OUTBOX, TEAM, TURN_TMP, Facts, TurnFolder
from agent_mailer.watch.asking import approvals_of, as_words, asking_of, goes_on_by_itself
from agent_mailer.watch.program import Program
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import WatchPolicy, choose_session

T = TypeVar("T")


@runtime_checkable
class RemembersTeams(Protocol):
    """A mailbox at which people write down what a whole team of agents is to know."""

    async def team_memory(self) -> str:
        """All of it that is for this agent, asked for after its contacts; empty where that is nothing. Raises
        MailboxUnavailable.
        """


class WeLeave(Exception):
    """We are to leave before the turn has begun."""


async def start(room: Room, record: TurnRecord, messages: Sequence[Message], program: Program) -> Supervised:
    """`messages`: the turn's own first, and those of its batch.

    Raises RuntimeMissing, OSError and WeLeave: then nothing ran.
    """
    state, policy = room.state, room.policy
    launch, directory = await (_prepared if record.live is None else _prepared_live)(room, record, messages, program)
    behind_gate = partial(
        start_behind_gate, launch.argv, env=launch.env, cwd=launch.cwd, turn_dir=directory, turn_id=record.turn_id
    )
    if policy.turn_memory:
        begun = await start_limited(behind_gate, policy.turn_memory, launch.env, record.turn_id)
    else:
        begun = Start(behind_gate())
    with begun.gated as gated:
        record.process = gated.identity
        record.phase = Phase.RUNNING
        record.has_events = program.traits.has_events
        record.started_at = room.clock.now()
        state.turns.save(record)
        supervised = gated.release()
    room.log.emit(
        EventName.TURN_STARTED,
        turn_id=record.turn_id,
        message_id=record.envelope.id,
        thread=record.envelope.thread,
        runtime=record.runtime,
        pid=gated.identity.pid,
        resumes=record.resume,
    )
    if begun.unlimited:
        room.log.emit(EventName.TURN_UNLIMITED, turn_id=record.turn_id, why=begun.unlimited)
    for envelope in envelopes_of(record):
        room.mailbox.report(envelope, Progress(record.turn_id, Stage.STARTED))
    if record.live is not None and room.offers is not None:
        room.offers.started(record)
    return supervised


async def _prepared(
    room: Room, record: TurnRecord, messages: Sequence[Message], program: Program
) -> tuple[Launch, Path]:
    """What is to run, and the turn's folder with all that it finds there. Raises as `start`."""
    state, policy, envelope, confinement = room.state, room.policy, record.envelope, room.confinement
    folder = state.turns.folder(record.turn_id)
    directory = folder.path
    choice = choose_session(
        state.sessions.get(envelope.thread),
        record.rerun,
        runtime=record.runtime,
        resumes=program.traits.resumes,
        now=room.clock.now(),
        policy=policy,
    )
    record.resume = choice.session_id
    asks = policy.approve.asks or (record.rerun is not None and bool(record.rerun.asked))
    approvals = approvals_of(state, policy.approve, record) if asks else None
    words = words_of(record, policy.project_dir)
    own_sandbox = confinement is None or confinement.leaves_own_sandbox
    launch = program.runtime.command(
        msgspec.structs.replace(
            _request(policy, record, words, folder),
            session_id=choice.session_id,
            confined=confinement is not None,
            own_sandbox=own_sandbox,
            batch=words.batch,
            asking=asking_of(approvals, directory, ISOLATED) if approvals is not None else None,
        )
    )
    record.fresh = launch.session_id
    if (own_sandbox and program.traits.own_sandbox) or program.traits.asks:
        await _unless_we_leave(room, program.require_fence(policy.workdir, record.turn_id, sandbox=own_sandbox))
    await _note_documents(room, record, folder)
    await _prepare(room, record, messages, folder)
    copies = None
    if confinement is not None:
        own = TurnPlaces(directory, outbox=directory / OUTBOX, tmp=directory / TURN_TMP)
        launch, copies = await confinement.around(launch, own), folder.note_copy
    prompt = ""
    if approvals is None or not goes_on_by_itself(approvals, record.rerun, choice.session_id):
        approvals = approvals.without_pending() if approvals is not None else None
        answers = as_words(approvals.told) if approvals is not None else ""
        prompt = room.prompts.render(
            record, words, choice.prompt, why_lost=choice.why_lost, answers=answers, copies=copies
        )
    state.folder.disk.overwrite(directory / PROMPT_FILE, prompt.encode("utf-8", "replace"))
    if approvals is not None:
        write_approvals(state.folder.disk, directory, approvals)

    return launch, directory


def _request(policy: WatchPolicy, record: TurnRecord, words: Words, folder: TurnFolder) -> TurnRequest:
    """What each turn asks of whatever does it."""
    return TurnRequest(
        turn_id=record.turn_id,
        turn_dir=folder.path,
        workdir=policy.workdir,
        project_dir=policy.project_dir,
        message_id=words.message,
        thread_id=words.thread,
        sender=words.sender,
        attempt=record.attempt,
        session_id=None,
        tools=ToolServer(*folder.server(policy.workdir)),
    )


async def _prepared_live(
    room: Room, record: TurnRecord, messages: Sequence[Message], program: Program
) -> tuple[Launch, Path]:
    """Of a turn that a live session has taken: the mail, and who stands in for it. Nothing is asked of any program."""
    policy, folder = room.policy, room.state.turns.folder(record.turn_id)
    request = _request(policy, record, words_of(record, policy.project_dir), folder)
    await _prepare(room, record, messages, folder)
    room.state.folder.disk.overwrite(folder.path / PROMPT_FILE, b"")
    return program.runtime.command(request), folder.path


async def _unless_we_leave(room: Room, trial: Coroutine[None, None, None]) -> None:
    """What a program is tried by can take half a minute, and would be for nothing. Raises WeLeave, and as `trial`."""
    trying = asyncio.create_task(trial)
    leaving = [asyncio.create_task(event.wait()) for event in (room.stopping, room.handing_over)]
    try:
        await asyncio.wait({trying, *leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not trying.done():
            raise WeLeave
        trying.result()
    finally:
        for task in (trying, *leaving):
            task.cancel()
        await asyncio.gather(trying, *leaving, return_exceptions=True)


def folders_of(room: Room) -> list[Path]:
    """Where the agent works."""
    return [room.policy.workdir, *([room.policy.project_dir] if room.policy.project_dir is not None else [])]


async def documents_of(room: Room) -> dict[str, str]:
    """What tells agents what to do there, and what git obeys."""
    folders = folders_of(room)

    def look() -> dict[str, str]:
        return documents_in(folders) | obeyed_by_git(folders)

    # Of a disk that hangs the workdir's is the only one that others wait for, too.
    if folders == [room.policy.workdir] and holds_little(room.policy.workdir):
        return look()
    # What an agent has made of its folders can take a third of a second; other turns go on meanwhile.
    return await meanwhile(look)


async def _note_documents(room: Room, record: TurnRecord, folder: TurnFolder) -> None:
    """As the turn begins; for a watcher that comes after this one, in the turn's folder. Nothing relies on it."""
    found = await documents_of(room)
    if record.turn_id in room.work:
        room.work[record.turn_id].documents = found
    with suppress(OSError):
        room.state.folder.disk.overwrite(folder.path / DOCUMENTS, msgspec.json.encode(found))


async def _prepare(room: Room, record: TurnRecord, messages: Sequence[Message], folder: TurnFolder) -> None:
    """The mail for the agent's tools. A mailbox that fails now costs the thread view and the like, not the turn."""
    state, mailbox = room.state, room.mailbox
    able = mailbox.capabilities
    thread, contacts = await asyncio.gather(
        mailbox.thread(record.envelope.thread), mailbox.contacts(), return_exceptions=True
    )
    memory, copies = state.folder.memory, state.notes.copies(record.envelope.thread)
    folder.prepare(
        messages[0],
        _or_nothing(thread) or messages,
        _with_senders(_or_nothing(contacts), record),
        Facts(
            turn_id=record.turn_id,
            address=room.address,
            max_message_bytes=able.max_message_bytes,
            memory_global=str(memory / f"{GLOBAL_NOTE}.md"),
            memory_thread=str(memory_file(memory, record.envelope.thread)),
            no_way=record.no_way,
            carries_context=able.carries_context,
            carries_marks=able.carries_marks,
            global_note_fixed=room.policy.global_note_fixed,
        ),
        copies,
        messages[1:],
    )
    if isinstance(mailbox, RemembersTeams):
        with suppress(MailboxUnavailable):
            remembered = await mailbox.team_memory()
            state.folder.disk.overwrite(folder.path / TEAM, remembered.encode("utf-8", "replace"))


def _with_senders(contacts: Sequence[Contact], record: TurnRecord) -> Sequence[Contact]:
    """Whoever wrote from another place, or has no mailbox yet, can be written to all the same."""
    known = {contact.address for contact in contacts}
    routes = (record.route, *(one.route for one in record.batch))
    away = dict.fromkeys(route.address for route in routes if route is not None)
    more = [Contact(address, "the sender of this mail") for address in away if address not in known]
    return (*contacts, *more) if contacts else contacts


def _or_nothing(found: Sequence[T] | BaseException) -> Sequence[T]:
    if isinstance(found, MailboxUnavailable):
        return ()
    if isinstance(found, BaseException):
        raise found
    return found
