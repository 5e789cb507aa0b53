"""The kill loops' desk with its mail at an Agent Relay server, as the fake plays it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import httpx
from tests.desk import PATIENCE, Desk
from tests.fake_process import FakeProcess

from agent_mailer.mailbox.port import Priority
from agent_mailer.mailbox.relay.reader import row_in
from agent_mailer.setup.registering import register_name

PLANNER = "planner"


class RelayDesk(Desk):
    """`coder` works in `workdir`; `planner` writes to it by way of the server, which may be away at any moment. Every
    other message can be taken by whoever is there, and is only `coder`'s once it was claimed.
    """

    def __init__(self, base: Path, process: FakeProcess) -> None:
        super().__init__(base)
        self.process = process
        self._keys = itertools.count()
        self.configure(
            address="coder",
            mailbox="relay",
            broker_url=process.url,
            maildir_root="",
            relay={"caps": ["chat", "work"]},
            poll_interval_idle=1,
            poll_interval_active=1,
        )
        register_name(self.place(), "coder")
        register_name(self.place(), PLANNER)

    def send(self, body: str = "please", *, thread: str = "", priority: Priority | None = None, **_: Any) -> str:
        """Until it is taken: the server gives the first message of a key once more. Returns the message's id."""
        number = next(self._keys)
        order = {"from": PLANNER, "subject": "task", "body": body, "idempotencyKey": f"desk-{number}"}
        claimed = {"to": "cap:work", "claimable": True} if number % 2 else {"to": "coder"}
        marks = {"payload": {"agentMailer": {"thread": thread}}} if thread else {}
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = httpx.post(
                    f"{self.process.url}/api/messages",
                    json={**order, **claimed, **marks},
                    trust_env=False,
                    timeout=PATIENCE,
                )
                assert answer.status_code == 201, answer.text
                return row_in(answer.content).id
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, "the server does not come back"
            time.sleep(0.02)
