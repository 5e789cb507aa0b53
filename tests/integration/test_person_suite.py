"""A person's mail in a folder, at our broker and at one without extensions, under the suite that each must pass."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker_desk import DOMAIN, BrokerDesk, running_broker
from tests.plain_broker import running_plain_broker
from tests.raw_broker import ADDRESS, AGENT_ID, Rule, drops, message, page, raw_broker, says
from tests.sizes import LONG

from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, ExitCode
from agent_mailer.mailbox.amp.client import AgentInfo
from agent_mailer.mailbox.maildir.layout import make_root
from agent_mailer.mailbox.port import MailboxUnavailable, Message, Unreadable
from agent_mailer.people.arrivals import drain
from agent_mailer.people.broker import BrokerMail, mail_of
from agent_mailer.people.folder import mail_in
from agent_mailer.people.port import EVERYTHING, PersonalMail
from agent_mailer.testing.person_suite import PersonSuite

_serial = itertools.count()


class TestFolder(PersonSuite):
    @pytest.fixture(autouse=True)
    def root(self, tmp_path: Path) -> None:
        make_root(Disk(), tmp_path / "mail", ["ann", "bob"])

    def mail_of(self, name: str, folder: Path) -> PersonalMail:
        return mail_in(Workplace(folder, {"mailbox": "maildir", "maildir_root": str(folder / "mail")}), name)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_plain_broker(tmp_path_factory.mktemp("plain")) as desk:
        yield desk


class TestOurBroker(PersonSuite):
    """Each test has a user of its own, whose agents are ann and bob."""

    @pytest.fixture(autouse=True)
    def user(self, ours: BrokerDesk) -> None:
        self.enter(ours)

    def enter(self, broker: BrokerDesk) -> None:
        self.domain = f"user{next(_serial)}"
        person = broker.person(self.domain)
        self.flags: dict[str, object] = {"mailbox": "amp", "broker_url": broker.url, "api_key": person.key}
        for name in ("ann", "bob"):
            broker.agent(person, name)

    def mail_of(self, name: str, folder: Path) -> PersonalMail:
        return mail_of(Workplace(folder, self.flags), f"{name}@{self.domain}.{DOMAIN}")

    def test_what_waits_for_an_agent_that_is_watched_elsewhere_is_taken_by_no_person(self, tmp_path: Path) -> None:
        sent = self.write("ann", "bob", tmp_path)
        watcher = self.mail_of("bob", tmp_path).mailbox
        assert [one.id for one in asyncio.run(watcher.pending(9)).envelopes] == [sent.id]
        bob, told = self.person("bob", tmp_path), list[object]()
        for take in (
            lambda: bob.drain(told.append),
            lambda: bob.watch(EVERYTHING, lambda *one: told.append(one), seconds=0.0),
        ):
            with pytest.raises(BusyFault) as caught:
                take()
            assert caught.value.exit_code is ExitCode.BUSY
        assert bob.read(sent.id).body.strip() == "please"
        assert [one.id for one in asyncio.run(watcher.pending(9)).envelopes] == [sent.id]
        assert told == []


class TestPlainBroker(TestOurBroker):
    carries_marks = False
    recognises_delivery = False

    @pytest.fixture(autouse=True)
    def user(self, plain: BrokerDesk) -> None:
        self.enter(plain)

    @LONG
    def test_a_dedupe_key_sends_once(self, tmp_path: Path) -> None:
        super().test_a_dedupe_key_sends_once(tmp_path)


@pytest.mark.parametrize("rule", [drops, says(503, {"detail": "later"})], ids=["lost", "refused"])
def test_what_a_drain_marks_as_read_at_a_broker_was_told_whatever_becomes_of_the_mark(
    tmp_path: Path, rule: Rule
) -> None:
    """A mark whose answer is lost may have been made: then nobody would see the message in an inbox again."""

    async def scene() -> None:
        async with raw_broker() as broker:
            broker.on(f"GET /messages/inbox/{ADDRESS}", page(message(1), message(2)))
            broker.on("GET /messages/thread/t1", says(200, [message(1), message(2)]))
            broker.on("PATCH /messages/m1/read", rule)
            place = Workplace(tmp_path, {"mailbox": "amp", "broker_url": broker.url, "api_key": "amk_" + "1" * 64})
            mail = BrokerMail(place, AgentInfo(AGENT_ID, ADDRESS), place.config.api_key, is_watched=False)
            told: list[str] = []

            def drained(item: Message | Unreadable) -> None:
                assert isinstance(item, Message)
                assert not [asked for asked in broker.asked if item.envelope.id in asked.path]
                told.append(item.envelope.id)

            with pytest.raises(MailboxUnavailable):
                await drain(mail, 0, drained)
            assert told == ["m1"]

    asyncio.run(scene())
