"""The demo at a broker: a real one beside the agents, on a free port of 127.0.0.1."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence

import msgspec

from agent_mailer.demo.agents import HOW_TO_BROKER
from agent_mailer.demo.stage import DemoFailed, Stage

BROKER_SECONDS = 20.0
LOOK_EVERY = 0.02
USER, DOMAIN = "demo", "amp.localhost"
_URL = re.compile(r"a broker at (http://\S+)")
_INVITE = re.compile(r"--invite (\w+)")
_READY = "Ctrl-C"
"""The last line that a broker prints at its start."""


class BrokerStage(Stage):
    """Their mail goes by way of a broker."""

    how_to = HOW_TO_BROKER
    addresses = (f"human-operator@{USER}.{DOMAIN}", f"coder@{USER}.{DOMAIN}")

    def prepare(self) -> Iterator[tuple[str, str]]:
        data = self.folder / "broker"
        broker = self.start_beside("broker", "broker", "serve", "--port", "0", "--domain", DOMAIN, "--data", str(data))
        said = self._first_lines()
        found, invite = _URL.search(said), _INVITE.search(said)
        if found is None or invite is None:
            raise DemoFailed("demo_failed", f"the broker says something unknown: {said.strip()}")
        url = found[1]
        yield "broker", f"serves at {url} (process {broker.pid})"
        added = self.run(
            *("broker", "user", "add", USER, "--invite", invite[1], "--data", str(data), "--json"),
            AGENT_MAILER_PASSWORD=secrets.token_hex(8),
        )
        key = msgspec.json.decode(added, type=_Added).api_key
        yield "you", "are its first user, by the invite code that it printed, and have an API key"
        self.set_up("--broker-url", url, "--api-key", key)
        yield "planner", "is registered there, and so is coder"

    @property
    def mail_is(self) -> str:
        return f"the broker's database is {self.folder / 'broker' / 'broker.db'}"

    @property
    def else_ran(self) -> str:
        return "one broker that told them of their mail"

    @property
    def _to_mailbox(self) -> Sequence[str]:
        return "--workdir", str(self.folder / "planner")

    def _first_lines(self) -> str:
        end = time.monotonic() + BROKER_SECONDS
        while _READY not in (said := self.output("broker").read_text("utf-8", "replace")):
            if self._beside[0].status() is not None or time.monotonic() > end:
                raise DemoFailed("demo_failed", f"the broker did not start: {said.strip()}")
            time.sleep(LOOK_EVERY)
        return said


class _Added(msgspec.Struct):
    """What `broker user add --json` prints."""

    api_key: str
