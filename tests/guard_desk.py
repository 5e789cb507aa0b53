"""Several agents over one folder mailbox, each with a watcher in this process, that always answer each other."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from tests.desk import CLI

from agent_mailer.assemble import Workplace
from agent_mailer.clock import Clock
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import Paths, make_root
from agent_mailer.mailbox.port import Action, Delivered, Draft, Message
from agent_mailer.state.held import HeldEntry
from agent_mailer.state.records import TurnRecord
from agent_mailer.watch.room import Room
from agent_mailer.watch.watcher import Watcher

_STAGE = """cat >/dev/null; cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1
printf '{"key":"k","action":"ACTION","created":%s,"to":[TO],"body":"%s"THREAD}' "$(date +%s)" BODY >k.json
printf '{"kind":"done"}' >finish
"""


def stages(action: str, to: str = "", *, body: str = "$AGENT_MAILER_TURN_ID", thread: str = "") -> str:
    """An agent that writes one mail a turn, each time another text."""
    script = _STAGE.replace("ACTION", action).replace("TO", f'"{to}"' if to else "")
    named = f',"thread":"\'{thread}\'"' if thread else ""
    return script.replace("BODY", f'"{body}"').replace("THREAD", named)


ANSWERS = stages("reply")
REPEATS = stages("reply", body="thank you")


def forwards(to: str) -> str:
    return stages("forward", to)


def writes_anew(to: str) -> str:
    """Each time in a thread of its own."""
    return stages("send", to, thread="t-$AGENT_MAILER_TURN_ID")


class Company:
    def __init__(self, base: Path, agents: dict[str, str], **settings: Any) -> None:
        """`agents`: what each of them does, as a shell script."""
        self.base = base
        self.root = base / "mail"
        self.told = base / "told"
        make_root(Workplace(base).disk, self.root, [*agents, "user"])
        for name, script in agents.items():
            state = base / name / ".agent-mailer"
            state.mkdir(parents=True)
            state.chmod(0o700)
            config = {
                "address": name,
                "runtime": "command",
                "permission_mode": "plan",
                "maildir_root": str(self.root),
                "command": ["/bin/sh", "-c", script],
                "notify": {"command": ["/bin/sh", "-c", f'echo "$AGENT_MAILER_NOTICE_TEXT" >>{self.told}']},
                **settings,
            }
            path = state / "config.toml"
            path.write_text(tomlkit.dumps(config))
            path.chmod(0o600)
        self.names = tuple(agents)

    def configure(self, name: str, **settings: Any) -> None:
        path = self.base / name / ".agent-mailer" / "config.toml"
        path.write_text(tomlkit.dumps({**tomllib.loads(path.read_text()), **settings}))

    def place(self, name: str, clock: Clock | None = None) -> Workplace:
        return Workplace(self.base / name, clock=clock)

    def send(self, to: str, thread: str = "", *, sender: str = "user", body: str = "begin", key: str = "k") -> str:
        place = Workplace(self.base)
        mailbox = MaildirMailbox(place.disk, self.root, sender)
        draft = Draft(key, Action.SEND, place.clock.now(), to=(to,), subject="s", body=body, thread=thread)
        items = mailbox.compose(draft, None, f"test-{os.getpid()}")
        assert isinstance(items, Sequence)
        assert asyncio.run(mailbox.deliver(items[0])) == Delivered()
        return items[0].id

    def turns(self, name: str) -> int:
        return len(self.place(name).state.turns.ids())

    def records(self, name: str) -> list[TurnRecord]:
        turns = self.place(name).state.turns
        return [record for record in map(turns.load, turns.ids()) if record is not None]

    def once(self, name: str, clock: Clock) -> None:
        """One `watch --once` of one of them."""
        place = self.place(name, clock)
        lock = place.lock()
        lock.acquire()
        try:
            place.prepare()
            asyncio.run(self._drain(place.room(lock)))
        finally:
            lock.release()

    async def _drain(self, room: Room) -> None:
        await Watcher(room, once=True).run()

    def held(self, name: str) -> list[HeldEntry]:
        return list(self.place(name).state.held.all())

    def all_held(self) -> list[HeldEntry]:
        return [entry for name in self.names for entry in self.held(name)]

    def inbox(self, handle: str = "user") -> list[Message]:
        async def read() -> list[Message]:
            mailbox = MaildirMailbox(Workplace(self.base).disk, self.root, handle)
            found = [await mailbox.read(envelope) for envelope in (await mailbox.pending(1000)).envelopes]
            return [message for message in found if isinstance(message, Message)]

        return asyncio.run(read())

    def questions(self) -> list[str]:
        """What the operator was asked, beside what he was told else."""
        lines = self.told.read_text().splitlines() if self.told.exists() else []
        return [line for line in lines if "go on, or stop?" in line]

    def work(self, lives: int = 1, most: float = 60.0, clock: Clock | None = None) -> None:
        """Watch until nothing moves any more. `lives`: so often every watcher leaves and another begins meanwhile."""
        for life in range(lives):
            asyncio.run(self._watch(most if life == lives - 1 else 0.3, clock))

    async def _watch(self, most: float, clock: Clock | None) -> None:
        with self._locked(clock) as places:
            watchers = [Watcher(place.room(lock)) for place, lock in places]
            tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
            quiet, give_up = 0, asyncio.get_running_loop().time() + most
            while quiet < 8 and asyncio.get_running_loop().time() < give_up:
                await asyncio.sleep(0.05)
                moves = any(watcher.in_work for watcher in watchers) or any(map(self._waits, self.names))
                quiet = 0 if moves else quiet + 1
            for watcher in watchers:
                watcher.stop(5.0)
            await asyncio.gather(*tasks)

    def kill_until(self, over: Callable[[], object], one_more: Callable[[], None], lot: random.Random) -> int:
        """Watchers of all, of which one is killed whenever `one_more` returns, until it is over; how often."""
        watchers: dict[str, subprocess.Popen[bytes]] = {}
        kills = 0
        while not over():
            for name in self.names:
                if name not in watchers or watchers[name].poll() is not None:
                    watchers[name] = subprocess.Popen(
                        [*CLI, "watch", "--no-interactive", "-C", str(self.base / name)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
            one_more()
            killed = watchers[lot.choice(self.names)]
            killed.kill()
            killed.wait()
            kills += 1
        for watcher in watchers.values():
            watcher.kill()
            watcher.wait()
        return kills

    def _waits(self, name: str) -> bool:
        pause = self.place(name).state.pause.read()
        return pause is None and any(Paths(self.root, name).new.iterdir())

    @contextmanager
    def _locked(self, clock: Clock | None) -> Iterator[list[tuple[Workplace, Any]]]:
        found = []
        for name in self.names:
            place = self.place(name, clock)
            lock = place.lock()
            lock.acquire()
            place.prepare()
            found.append((place, lock))
        try:
            yield found
        finally:
            for _, lock in found:
                lock.release()


def nothing_is_lost(company: Company) -> None:
    """Each message that any of them ever got is settled, held, or a person's."""
    for name in company.names:
        state = company.place(name).state
        paths = Paths(company.root, name)
        waiting = {path.stem for path in (*paths.new.iterdir(), *paths.cur.iterdir())}
        known = {one for one in waiting if one in state.processed or one in state.held.waiting}
        assert waiting == known | {entry.envelope.id for entry in state.retries.all()}, name
