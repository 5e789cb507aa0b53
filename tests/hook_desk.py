"""A folder mailbox with the real listener of a hook before it, and a program that calls it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from tests.desk import Desk, until
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.mailbox.maildir.format import parse_message
from agent_mailer.mailbox.port import Message
from agent_mailer.outside.signature import HEADER

JSON = {"Content-Type": "application/json"}
_URL = re.compile(r"at (http://\S+)")


def signed(secret: str, body: bytes, at: float | None = None) -> dict[str, str]:
    """Made here by hand, as the documents say."""
    moment = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return {**JSON, HEADER: f"t={moment},v1={digest}"}


def signed_as_github(secret: str, body: bytes, event: str, delivery: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    names = {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Event": event, "X-GitHub-Delivery": delivery}
    return {**JSON, **names}


class HookDesk:
    """`coder` gets the mail of the hook `kind`. The user's state lies below `base`."""

    def __init__(self, base: Path, kind: str = "generic") -> None:
        self.desk = Desk(base)
        self.kind = kind
        self.env = {"XDG_STATE_HOME": str(base / "state")}
        self.screen = base / "screen"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.url = ""
        self.secret = self.type("secret", kind).out.strip()

    def type(self, *words: str) -> Typed:
        return type_in(self.desk.workdir, "hook", *words, env=self.env)

    def start(self, *options: str) -> None:
        words = ("hook", self.kind, "--to", "coder", "--port", str(self.port), *options)
        with self.screen.open("wb") as stream:
            self.process = subprocess.Popen(
                [COMMAND, *words],
                cwd=self.desk.workdir,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        process = self.process
        until(lambda: "Ctrl-C stops it." in self.said() or process.poll() is not None, "the listener's last words")
        found = _URL.search(self.said())
        assert found, self.said()
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])

    def said(self) -> str:
        return self.screen.read_text("utf-8")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(30)
        self.process = None
        return status

    def close(self) -> None:
        if self.process is not None:
            self.end(signal.SIGKILL)

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(self.url, content=body, headers=headers, trust_env=False, timeout=30)

    def tell(self, key: str | None = None, **said: Any) -> Any:
        body = json.dumps(said).encode()
        answer = self.post(body, signed(self.secret, body) | ({"Idempotency-Key": key} if key else {}))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def github(self, event: str, delivery: str, **said: Any) -> Any:
        body = json.dumps(said).encode()
        answer = self.post(body, signed_as_github(self.secret, body, event, delivery))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def inbox(self) -> list[Message]:
        """What `coder` has got, the oldest first."""
        return mail_of(self.desk.root)


def mail_of(root: Path, agent: str = "coder") -> list[Message]:
    folder = root / f"agents/{agent}/inbox/new"
    found = [parse_message(path.read_bytes(), path.name) for path in folder.glob("*.md")]
    messages = [one for one in found if isinstance(one, Message)]
    assert len(messages) == len(found)
    return sorted(messages, key=lambda one: one.envelope.order)
