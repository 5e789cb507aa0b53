"""The amp adapter under the suite that every mailbox must pass: at our broker, and at one without extensions."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.plain_broker import running_plain_broker

from agent_mailer.mailbox.amp.adapter import AmpMailbox, Rhythm
from agent_mailer.mailbox.amp.client import Credentials
from agent_mailer.mailbox.port import Envelope, Message, Outgoing
from agent_mailer.testing.mailbox_scene import Scene, play, send, waiting
from agent_mailer.testing.mailbox_suite import MailboxSuite

_serial = itertools.count()


class AmpHarness:
    def __init__(self, desk: BrokerDesk, person: Person) -> None:
        number = next(_serial)
        self.desk = desk
        self.person = person
        self.alice = desk.agent(person, f"alice{number}")
        self.bob = desk.agent(person, f"bob{number}")

    def mailbox(self) -> AmpMailbox:
        return self._mailbox(self.alice, "watcher of alice")

    def peer(self) -> AmpMailbox:
        return self._mailbox(self.bob, "watcher of bob")

    def arrive_again(self, item: Outgoing) -> None:
        self.desk.call("PATCH", f"/messages/{item.id}/unread", headers=self.person.header)

    def arrive_unreadable(self, name: str) -> None:
        """A row that no broker writes: a moment that is none."""
        self.desk.send(self.person, self.bob, self.alice["address"], subject=name)
        with closing(sqlite3.connect(self.desk.database, timeout=10)) as base, base:
            base.execute("UPDATE messages SET created_at = ? WHERE subject = ?", (name, name))

    def steal(self, envelope: Envelope) -> None:
        self.desk.call("PATCH", f"/messages/{envelope.id}/read", headers=self.person.header)

    def _mailbox(self, agent: dict[str, str], watcher: str) -> AmpMailbox:
        credentials = Credentials(self.desk.url, agent["id"], self.person.key)
        return AmpMailbox(
            lambda: credentials,
            agent["address"],
            watcher=watcher,
            watcher_name=watcher,
            rhythm=Rhythm(idle=0.2, active=0.1),
            under_way=0.0,
        )


class OverOneBroker(MailboxSuite):
    """All tests of a class share a broker; each has agents of its own."""

    desk: BrokerDesk
    person: Person

    def harness(self, folder: Path) -> AmpHarness:
        return AmpHarness(self.desk, self.person)


class TestOurBroker(OverOneBroker):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with running_broker(tmp_path_factory.mktemp("broker")) as desk:
            cls.desk, cls.person = desk, desk.person("someone")
            yield

    def test_it_is_what_is_tested(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            assert at.mailbox.capabilities.recognises_delivery
            assert at.mailbox.capabilities.carries_marks
            assert at.mailbox.capabilities.pushes
            assert (at.mailbox.capabilities.keeps_done, at.mailbox.capabilities.vouches) == (True, True)

        play(self.harness(tmp_path), scenario)


class TestPlainBroker(OverOneBroker):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with running_plain_broker(tmp_path_factory.mktemp("plain")) as desk:
            cls.desk, cls.person = desk, desk.person("someone")
            yield

    def test_it_is_what_is_tested(self, tmp_path: Path) -> None:
        async def scenario(at: Scene) -> None:
            assert not at.mailbox.capabilities.recognises_delivery
            assert not at.mailbox.capabilities.carries_marks
            assert not at.mailbox.capabilities.pushes
            assert (at.mailbox.capabilities.keeps_done, at.mailbox.capabilities.vouches) == (False, False)

        play(self.harness(tmp_path), scenario)

    def test_a_claim_survives_the_watcher(self, tmp_path: Path) -> None:
        """Here nobody but the watcher's own state knows of a claim; what it calls its own it gets."""

        async def scenario(at: Scene) -> None:
            await send(at.peer, at.mailbox, "one", body="work")
            (envelope,) = await waiting(at.mailbox)
            first = await at.mailbox.claim(envelope)
            assert isinstance(first, Message)
            await at.mailbox.close()
            successor = at.harness.mailbox()
            await successor.open()
            try:
                assert await waiting(successor) == (envelope,)
                assert await successor.claim(envelope, again=True) == first
                assert await waiting(successor) == ()
            finally:
                await successor.close()

        play(self.harness(tmp_path), scenario)
