"""The mcp_agent_mail adapter under the suite that every mailbox must pass, and what is its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fake_mcp_mail import FakeServer, running

from agent_mailer.disk import Disk
from agent_mailer.mailbox.mcp_agent_mail.adapter import Account, McpAgentMailbox, Rhythm
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.testing.mailbox_suite import MailboxSuite

_serial = itertools.count()


class McpHarness:
    def __init__(self, url: str, fake: FakeServer, folder: Path) -> None:
        number = next(_serial)
        self.url, self.fake, self.folder = url, fake, folder
        self.alice, self.bob = f"alice-{number}", f"bob-{number}"
        asyncio.run(self.peer().register())

    def mailbox(self) -> McpAgentMailbox:
        return self._mailbox(self.alice)

    def peer(self) -> McpAgentMailbox:
        return self._mailbox(self.bob)

    def arrive_again(self, item: Outgoing) -> None:
        """As a sender does whose look has failed: the same words once more, under the server's next number."""
        number = int(item.id.partition("-")[0])
        with self.fake.held() as base:
            row = dict(base.execute("select * from messages where id = ?", (number,)).fetchone())
            del row["id"], row["created_ts"]
            self.fake.write(row.pop("project"), row.pop("sender"), [self.alice], **row)

    def arrive_unreadable(self, name: str) -> None:
        with self.fake.held() as base:
            project = base.execute("select id from projects").fetchone()[0]
            self.fake.write(project, None, [self.alice], subject=name)

    def steal(self, envelope: Envelope) -> None:
        with self.fake.held() as base:
            base.execute("delete from messages where id = ?", (envelope.locator.rstrip("!"),))

    def _mailbox(self, name: str) -> McpAgentMailbox:
        account = Account(self.url, name, "/srv/shop")
        rhythm = Rhythm(idle=0.2, active=0.1)
        return McpAgentMailbox(account, self.folder, Disk(), rhythm=rhythm, environ={}, under_way=0.0)


class TestMcpAgentMail(MailboxSuite):
    url: str
    fake: FakeServer

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with running(tmp_path_factory.mktemp("mcp") / "base") as (cls.url, cls.fake):
            yield

    def harness(self, folder: Path) -> McpHarness:
        return McpHarness(self.url, self.fake, folder)
