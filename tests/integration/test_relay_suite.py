"""The relay adapter under the suite that every mailbox must pass."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fake_relay import FakeServer, running

from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.mailbox.relay.adapter import RelayMailbox, Rhythm
from agent_mailer.mailbox.relay.session import Account
from agent_mailer.testing.mailbox_suite import MailboxSuite

_serial = itertools.count()


class RelayHarness:
    def __init__(self, url: str, fake: FakeServer, folder: Path) -> None:
        number = next(_serial)
        self.url, self.fake, self.folder = url, fake, folder
        self.alice, self.bob = f"alice-{number}", f"bob-{number}"
        asyncio.run(self.peer().register())

    def mailbox(self) -> RelayMailbox:
        return self._mailbox(self.alice)

    def peer(self) -> RelayMailbox:
        return self._mailbox(self.bob)

    def arrive_again(self, item: Outgoing) -> None:
        """The same words once more in the thread, under the server's next number."""
        number = int(item.id.partition("-")[0])
        with self.fake.held() as base:
            row = dict(base.execute("select * from messages where id = ?", (number,)).fetchone())
            self.fake.write(row["sender"], row["target"], body=row["body"], subject=row["subject"], replyTo=number)

    def arrive_unreadable(self, name: str) -> None:
        with self.fake.held():
            self.fake.write(None, self.alice, subject=name)

    def steal(self, envelope: Envelope) -> None:
        with self.fake.held() as base:
            base.execute("delete from messages where id = ?", (envelope.locator,))

    def _mailbox(self, name: str) -> RelayMailbox:
        account, rhythm = Account(self.url, name), Rhythm(idle=0.2, active=0.1)
        return RelayMailbox(account, self.folder / f"{name}.json", Disk(), rhythm=rhythm, under_way=0.0)


class TestRelay(MailboxSuite):
    url: str
    fake: FakeServer

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with running(tmp_path_factory.mktemp("relay") / "base") as (cls.url, cls.fake):
            yield

    def harness(self, folder: Path) -> RelayHarness:
        return RelayHarness(self.url, self.fake, folder)
