"""A claimed turn becomes a process: its folder prepared, its record durable, and only then the gate opened (I3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import TypeVar

from agent_mailer.events import EventName
from agent_mailer.mailbox.port import MailboxUnavailable, Message, Progress, Stage
from agent_mailer.process.holder import PROMPT_FILE, Supervised
from agent_mailer.process.scope import start_turn
from agent_mailer.prompts import words_of
from agent_mailer.runtimes.port import TurnRequest
from agent_mailer.state.notes import GLOBAL_NOTE, memory_file
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.turn_tools.folder import Facts
from agent_mailer.watch.room import Room
from agent_mailer.watch.rules import choose_session

T = TypeVar("T")


async def start(room: Room, record: TurnRecord, message: Message) -> Supervised:
    """Raises RuntimeMissing and OSError: then nothing ran."""
    state, policy, envelope = room.state, room.policy, record.envelope
    directory, traits = state.turns.path(record.turn_id), room.runtime.traits
    choice = choose_session(
        state.sessions.get(envelope.thread),
        record.rerun,
        runtime=record.runtime,
        resumes=traits.resumes,
        now=room.clock.now(),
        policy=policy,
    )
    record.resume = choice.session_id
    words = words_of(record, policy.project_dir)
    launch = room.runtime.command(
        TurnRequest(
            turn_id=record.turn_id,
            turn_dir=directory,
            workdir=policy.workdir,
            project_dir=policy.project_dir,
            message_id=words.message,
            thread_id=words.thread,
            sender=words.sender,
            attempt=record.attempt,
            session_id=choice.session_id,
            tools=room.tools(directory),
        )
    )
    record.fresh = launch.session_id
    await _prepare(room, record, message)
    prompt = room.prompts.render(record, words, choice.prompt, why_lost=choice.why_lost)
    state.folder.disk.overwrite(directory / PROMPT_FILE, prompt.encode("utf-8", "replace"))
    begun = await start_turn(
        launch.argv,
        env=launch.env,
        cwd=launch.cwd,
        turn_dir=directory,
        turn_id=record.turn_id,
        memory=policy.turn_memory,
    )
    with begun.gated as gated:
        record.process = gated.identity
        record.phase = Phase.RUNNING
        record.started_at = room.clock.now()
        state.turns.save(record)
        supervised = gated.release()
    room.log.emit(
        EventName.TURN_STARTED,
        turn_id=record.turn_id,
        message_id=envelope.id,
        thread=envelope.thread,
        runtime=record.runtime,
        pid=gated.identity.pid,
        resumes=choice.session_id,
    )
    if begun.unlimited:
        room.log.emit(EventName.TURN_UNLIMITED, turn_id=record.turn_id, why=begun.unlimited)
    room.mailbox.report(envelope, Progress(record.turn_id, Stage.STARTED))
    return supervised


async def _prepare(room: Room, record: TurnRecord, message: Message) -> None:
    """The mail for the agent's tools. A mailbox that fails now costs the thread view, not the turn."""
    state, mailbox = room.state, room.mailbox
    thread, contacts = await asyncio.gather(
        _or_nothing(mailbox.thread(record.envelope.thread)), _or_nothing(mailbox.contacts())
    )
    memory = state.folder.memory
    state.turns.folder(record.turn_id).prepare(
        message,
        thread or [message],
        contacts,
        Facts(
            turn_id=record.turn_id,
            address=mailbox.address,
            max_message_bytes=mailbox.capabilities.max_message_bytes,
            memory_global=str(memory / f"{GLOBAL_NOTE}.md"),
            memory_thread=str(memory_file(memory, record.envelope.thread)),
        ),
        state.notes.copies(record.envelope.thread),
    )


async def _or_nothing(look: Awaitable[Sequence[T]]) -> Sequence[T]:
    with suppress(MailboxUnavailable):
        return await look
    return ()
