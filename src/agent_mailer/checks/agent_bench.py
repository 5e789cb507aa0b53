"""One turn of a described agent, apart from any mailbox: a folder of its own, a model server of ours, no account."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TypeVar

import msgspec

from agent_mailer.beneath import anchor, is_there
from agent_mailer.checks.agent import SCRATCH_TURN
from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Contact, Envelope, Message
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.holder import PROMPT_FILE, STDERR_FILE, STDOUT_FILE, Supervised, start_behind_gate
from agent_mailer.process.tree import end_tree, members
from agent_mailer.processes import read_stat
from agent_mailer.runtimes.acp.adapter import AgentOptions, AgentRuntime
from agent_mailer.runtimes.acp.shelf import Known
from agent_mailer.runtimes.port import Evidence, Observation, PermissionMode, ToolServer, TurnRequest
from agent_mailer.testing.model_server import Asked, ModelServer, Say, Step
from agent_mailer.turn_tools.folder import Facts, TurnFolder

T = TypeVar("T")

NOBODY = "http://127.0.0.1:9"
"""There no model server listens."""
_LOOK = 0.1
_LEFT_AFTER = 2.0
_LEAVES_IN = 10.0
_BESIDE = 3
"""Turns at a time: agents are large, and each is at work as it starts."""


class Tried(msgspec.Struct, frozen=True):
    """What came of a turn. `judgement` None = it was still silent when the patience with it was over.

    `left`: processes of its that live 2 seconds after its end; `alive`: the one that its tool had named.
    """

    judgement: Judgement | None
    seen: Observation
    seconds: float
    asked: tuple[Asked, ...]
    replies: tuple[str, ...]
    left: int = 0
    alive: bool = False

    @property
    def done(self) -> bool:
        return self.judgement is not None and self.judgement.outcome is Outcome.DONE


class Bench:
    """`folder` is empty and ours; `patience`: seconds that a turn may take."""

    def __init__(self, known: Known, folder: Path, path: str, patience: float) -> None:
        self._known = known
        self._patience = patience
        self._path = path
        self._disk = Disk()
        self._count = 0
        self._lot = secrets.token_hex(3)
        self.folder = folder
        self.work, self._home = folder / "work", folder / "home"
        for place in (self.work, self._home):
            self._disk.make_directory(place)
        anchor(self.work)

    def runtime(self, mode: PermissionMode, url: str) -> AgentRuntime:
        """The agent, pointed at the server of `url`; its settings are written. Raises ConfigFault, OSError."""
        check = self._known.descriptor.check
        for name, text in check.files.items():
            path = self._home / name
            self._disk.make_directory(path.parent)
            self._disk.overwrite(path, _with(text, url).encode())
        env = {name: _with(value, url) for name, value in check.env.items()}
        base: Mapping[str, str] = {"HOME": str(self._home), "PATH": self._path, "LANG": "C.UTF-8", **env}
        return AgentRuntime(self._known, AgentOptions(mode, extra_args=check.args), base)

    def turn(
        self,
        mode: PermissionMode,
        steps: Sequence[Step],
        *,
        session: str | None = None,
        prompt: str = "Do what the mail says.",
        stop_at: Path | None = None,
        lingers: bool = False,
    ) -> Tried:
        """One turn with this script. `stop_at`: a file whose appearance ends the turn; it holds a process's id.
        `lingers`: what is left of it is looked for. Raises MailerError, OSError.
        """
        with ModelServer(steps) as server:
            runtime = self.runtime(mode, server.url)
            return _to_its_end(self._turn(runtime, server, session, prompt, stop_at, lingers=lingers))

    def failing(self, mode: PermissionMode, steps: Sequence[Step | None]) -> Sequence[Tried]:
        """A turn for each, some at a time, in homes of their own: most take minutes of waiting. None: nobody listens.
        Each has the patience, and then as long as its agent may be silent. Raises MailerError, OSError.
        """
        return _to_its_end(self._failing(mode, steps))

    async def _failing(self, mode: PermissionMode, steps: Sequence[Step | None]) -> Sequence[Tried]:
        places = asyncio.Semaphore(_BESIDE)
        patience = self._patience + self._known.descriptor.silent_for

        async def one(number: int, step: Step | None) -> Tried:
            async with places:
                bench = Bench(self._known, self.folder / f"failing-{number}", self._path, patience)
                with ModelServer([step or Say("x")]) as server:
                    runtime = bench.runtime(mode, NOBODY if step is None else server.url)
                    return await bench._turn(runtime, server, None, "Do what the mail says.", None, lingers=False)

        return await asyncio.gather(*(one(*numbered) for numbered in enumerate(steps)))

    async def _turn(
        self,
        runtime: AgentRuntime,
        server: ModelServer,
        session: str | None,
        prompt: str,
        stop_at: Path | None,
        *,
        lingers: bool,
    ) -> Tried:
        self._count += 1
        # All of a turn is found by this id and ended: two tries at a time must not find each other's.
        turn_id = f"{SCRATCH_TURN[:-8]}{self._lot}{self._count:02x}"
        folder = TurnFolder(self.work / ".agent-mailer" / "turns" / turn_id, self._disk)
        self._disk.make_directory(folder.path)
        envelope = Envelope("check", "check", "user", time.time(), "check", "check")
        facts = Facts(turn_id, "agent", 1024 * 1024, str(self.folder / "global.md"), str(self.folder / "check.md"))
        folder.prepare(Message(envelope, subject="check", body="check"), (), (Contact("user"),), facts)
        self._disk.overwrite(folder.path / PROMPT_FILE, prompt.encode())
        request = TurnRequest(
            turn_id=turn_id,
            turn_dir=folder.path,
            workdir=self.work,
            project_dir=None,
            message_id="check",
            thread_id="check",
            sender="user",
            attempt=1,
            session_id=session,
            tools=ToolServer(*folder.server(self.work)),
        )
        launch = runtime.command(request)
        begun = time.monotonic()
        gated = start_behind_gate(launch.argv, env=launch.env, cwd=launch.cwd, turn_dir=folder.path, turn_id=turn_id)
        supervised = gated.release()
        left = []
        try:
            ended = await self._until_ended(supervised, stop_at)
            seconds = time.monotonic() - begun
            if ended and lingers:
                await asyncio.sleep(_LEFT_AFTER)
                left = [one for one in members(turn_id, supervised.holder) if one != supervised.holder]
        finally:
            # The holder outlives whoever started it, and so a person who breaks off.
            await end_tree(turn_id, supervised.holder)
        seen = Observation()
        for line in (folder.path / STDOUT_FILE).read_bytes().splitlines():
            for event in runtime.parse(line):
                seen.add(event)
        evidence = Evidence(seen, supervised.exit(), folder.path / STDOUT_FILE, folder.path / STDERR_FILE, session)
        return Tried(
            judgement=runtime.judge(evidence) if ended else None,
            seen=seen,
            seconds=seconds,
            asked=tuple(server.asked),
            replies=tuple(draft.body for draft in folder.staged()),
            left=len(left),
            alive=stop_at is not None and _runs(stop_at),
        )

    async def _until_ended(self, supervised: Supervised, stop_at: Path | None) -> bool:
        """Whether it has ended by itself, or as it was told to."""
        ended = asyncio.create_task(supervised.wait_ended())
        until = time.monotonic() + self._patience
        while not ended.done() and time.monotonic() < until:
            await asyncio.wait({ended}, timeout=_LOOK)
            if stop_at is not None and is_there(stop_at):
                await end_tree(supervised.turn_dir.name, supervised.holder)
                stop_at = None
                until = time.monotonic() + _LEAVES_IN
        if not ended.done():
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            return False
        return True


def _to_its_end(work: Coroutine[None, None, T]) -> T:
    """Its result. What it has started is ended first, whatever signal breaks it off: a holder outlives it."""

    async def whole() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(whole())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _with(text: str, url: str) -> str:
    return Template(text).safe_substitute(URL=url)


def _runs(file: Path) -> bool:
    try:
        stat = read_stat(int(file.read_text()))
    except (OSError, ValueError):
        return False
    return stat is not None and stat.alive
