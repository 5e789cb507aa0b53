"""The kill loops' desk with its mail at a server of mcp_agent_mail's, as the fake plays it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import httpx
from tests.desk import PATIENCE, Desk
from tests.fake_process import FakeProcess

from agent_mailer.at_server import mcp_agent_mail
from agent_mailer.mailbox.mcp_agent_mail.wire import Row, identifier
from agent_mailer.mailbox.port import Priority
from agent_mailer.setup.registering import register_name

PLANNER = "planner-1"


class McpMailDesk(Desk):
    """`coder-1` works in `workdir`; `planner-1` writes to it by way of the server, which may be away at any moment."""

    def __init__(self, base: Path, process: FakeProcess) -> None:
        super().__init__(base)
        self.process = process
        self.project = str(base)
        self._keys = itertools.count()
        self.configure(
            address="coder-1",
            mailbox="mcp_agent_mail",
            broker_url=process.url,
            maildir_root="",
            mcp_agent_mail={"project": self.project},
            poll_interval_idle=1,
            poll_interval_active=1,
        )
        register_name(self.place(), "coder-1")
        register_name(self.place(), PLANNER)
        planner = mcp_agent_mail(self.place(), PLANNER).registered
        assert planner is not None
        self._token = planner.token

    def send(self, body: str = "please", *, thread: str = "", priority: Priority | None = None, **_: Any) -> str:
        """As a careful client does: it looks by its topic before it sends again. Returns the message's id."""
        me = {"project_key": self.project, "sender_token": self._token}
        topic = f"desk-{next(self._keys)}"
        while True:
            found = self._call(
                "fetch_topic",
                project_key=self.project,
                topic_name=topic,
                agent_name=PLANNER,
                registration_token=self._token,
            )
            if found["result"]:
                row = found["result"][0]
                return identifier(Row(row["id"], row["created_ts"], sender=PLANNER))
            order = {**me, "sender_name": PLANNER, "to": ["coder-1"], "subject": "task", "body_md": body}
            self._call("send_message", **order, topic=topic, **({"thread_id": thread} if thread else {}))

    def _call(self, tool: str, **arguments: Any) -> Any:
        """Until it is answered. What it refuses is a fault of the test."""
        deadline = time.monotonic() + PATIENCE
        order = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
        while True:
            try:
                answer = httpx.post(f"{self.process.url}/", json=order, trust_env=False, timeout=PATIENCE)
                result = answer.json()["result"]
                if not result["isError"]:
                    return result["structuredContent"]
                raise AssertionError(result)
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"the server does not come back: {tool}"
            time.sleep(0.02)
