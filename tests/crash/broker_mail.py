"""The kill loops' desk with its mail at a real broker process."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import httpx
from tests.broker_process import Account, BrokerProcess, join, register
from tests.desk import PATIENCE, Desk

from agent_mailer.mailbox.port import Envelope, Message, Priority


class BrokerMailDesk(Desk):
    """`coder` works in `workdir`; `planner` writes to it by way of the broker, which may be away at any moment."""

    def __init__(self, base: Path, process: BrokerProcess, account: Account | None = None, number: str = "") -> None:
        """Where there are several at one broker: the `account` of all, and the `number` in their agents' names."""
        super().__init__(base)
        self.process = process
        self.account = account or join(process.url, "ann", process.invite)
        self.coder = register(process.url, self.account, f"coder{number}")
        self.planner = register(process.url, self.account, f"planner{number}")
        self._keys = itertools.count()
        self._http = httpx.Client(
            base_url=process.url, headers=self.account.as_agent, trust_env=False, timeout=PATIENCE
        )
        self.configure(
            address=self.coder["address"],
            agent_id=self.coder["id"],
            broker_url=process.url,
            api_key=self.account.key,
            maildir_root="",
        )

    def close(self) -> None:
        self._http.close()

    def send(self, body: str = "please", *, thread: str = "", priority: Priority | None = None, **_: Any) -> str:
        """As a careful client does: again with the same key until it is answered. Returns the message's id."""
        form = {
            "agent_id": self.planner["id"],
            "from_agent": self.planner["address"],
            "to_agent": self.coder["address"],
            "subject": "task",
            "body": body,
            **({"thread_id": thread} if thread else {}),
            **({"priority": priority.value} if priority is not None else {}),
        }
        key = {"Idempotency-Key": f"k{next(self._keys)}"}
        sent: dict[str, Any] = self._answered("POST", "/messages/send", json=form, headers=key)
        return str(sent["id"])

    def inbox(self, handle: str = "user") -> list[Message]:
        """The answers, oldest first."""
        listed = self._answered(
            "GET", f"/messages/inbox/{self.planner['address']}", params={"agent_id": self.planner["id"], "all": True}
        )
        return [
            Message(Envelope(one["id"], one["thread_id"], one["from_agent"], 0.0, "", ""), body=one["body"])
            for one in listed
        ]

    def _answered(self, method: str, path: str, **request: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._http.request(method, path, **request)
                if answer.status_code == 200:
                    return answer.json()
                assert answer.status_code == 503, answer.text
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, "the broker does not come back"
            time.sleep(0.02)
