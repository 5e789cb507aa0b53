"""What a person relies on in every kind of mail, as tests over `people.port.PersonalMail`.

Subclass `PersonSuite` under a name that pytest collects and say who is there:

    class TestMine(PersonSuite):
        def mail_of(self, name: str, folder: Path) -> PersonalMail:
            return MyMail(...)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from agent_mailer.clock import SystemClock
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.port import Action, Draft, Kind, Message, Unreadable
from agent_mailer.people import Person, new_key
from agent_mailer.people.arrivals import Arrival
from agent_mailer.people.port import EVERYTHING, Ending, PersonalMail, Search, Sent
from agent_mailer.people.send import send
from agent_mailer.turn_tools.commands import PROGRESS

AWAITED = 20.0
"""Seconds within which an answer that is there is seen."""


class PersonSuite:
    carries_marks = True
    """As in the mailbox's capabilities: kinds and labels arrive."""
    recognises_delivery = True
    """As in the mailbox's capabilities: without it a dedupe key is only a look for the same message."""

    def mail_of(self, name: str, folder: Path) -> PersonalMail:
        """A new object for the mail of `ann`, who has no watcher, or of `bob`; `folder` is the test's own."""
        raise NotImplementedError

    def person(self, name: str, folder: Path) -> Person:
        self.told: list[str] = []
        return Person(self.mail_of(name, folder), SystemClock(), self.told.append)

    def write(self, sender: str, to: str, folder: Path, body: str = "please", dedupe: str | None = None) -> Sent:
        recipient = self.mail_of(to, folder).mailbox.address
        key = new_key(dedupe)
        draft = Draft(key, Action.SEND, SystemClock().now(), to=(recipient,), subject="task", body=body)
        return self.person(sender, folder).send(draft)

    def answer(
        self, sent: Sent, folder: Path, body: str, kind: Kind | None = None, labels: tuple[str, ...] = ()
    ) -> None:
        """What bob answers to a message of ann's."""
        mail = self.mail_of("bob", folder)
        draft = Draft(new_key(), Action.REPLY, SystemClock().now(), body=body, kind=kind, labels=labels)

        async def run() -> None:
            await send(mail, draft, (await mail.find(sent.id)).message)

        with mail.faults():
            asyncio.run(run())

    def test_what_is_sent_is_new_until_it_is_read(self, tmp_path: Path) -> None:
        ann = self.person("ann", tmp_path)
        first, second = self.write("bob", "ann", tmp_path, "one"), self.write("bob", "ann", tmp_path, "two")
        assert {(m.envelope.id, new) for m, new in ann.inbox(read_too=False)} == {(first.id, True), (second.id, True)}
        assert ann.read(first.id).body.strip() == "one"
        assert [m.envelope.id for m, _ in ann.inbox(read_too=False)] == [second.id]
        assert sorted(new for _, new in self.person("ann", tmp_path).inbox(read_too=True)) == [False, True]
        assert not ann.find(first.id).new
        assert self.told == []

    def test_a_message_that_is_not_there_or_not_clear_is_told(self, tmp_path: Path) -> None:
        ann = self.person("ann", tmp_path)
        self.write("bob", "ann", tmp_path)
        assert _code(lambda: ann.find("no-such-message")) == "unknown"
        assert _code(lambda: ann.thread("no-such-thread")) == "unknown"

    def test_one_unknown_recipient_and_nobody_gets_it(self, tmp_path: Path) -> None:
        bob = self.mail_of("bob", tmp_path).mailbox.address
        draft = Draft(new_key(), Action.SEND, 0.0, to=(bob, bob.replace("bob", "nobody")), subject="s", body="b")
        assert _code(lambda: self.person("ann", tmp_path).send(draft)) == "unknown_recipient"
        assert self.person("bob", tmp_path).inbox(read_too=True) == []

    def test_a_dedupe_key_sends_once(self, tmp_path: Path) -> None:
        first, again = (self.write("ann", "bob", tmp_path, "same", "nightly") for _ in range(2))
        assert (first.already, again.already) == (False, True)
        if self.recognises_delivery:
            assert (again.id, again.thread) == (first.id, first.thread)
            assert _code(lambda: self.write("ann", "bob", tmp_path, "other", "nightly")) == "dedupe_conflict"
            assert len(self.person("bob", tmp_path).inbox(read_too=True)) == 1

    def test_answers_keep_the_thread_and_count_as_reading(self, tmp_path: Path) -> None:
        sent = self.write("bob", "ann", tmp_path, "colour?")
        ann = self.person("ann", tmp_path)
        replied = ann.reply(sent.id, "green")
        assert ann.inbox(read_too=False) == []
        message = self.person("bob", tmp_path).find(replied).message
        assert (message.subject, message.refs, message.envelope.thread) == ("Re: task", (sent.id,), sent.thread)
        assert [one.body.strip() for one in ann.thread(sent.thread)] == ["colour?", "green"]
        assert ann.thread(sent.id) == ann.thread(sent.thread)

    def test_an_answer_to_another_message_of_the_thread_ends_no_wait(self, tmp_path: Path) -> None:
        """The thread is shared by all that two write to each other."""
        first = self.write("ann", "bob", tmp_path, "first")
        ann, bob = self.person("ann", tmp_path), self.mail_of("bob", tmp_path).mailbox.address
        key = new_key(None)
        draft = Draft(
            key, Action.SEND, SystemClock().now(), to=(bob,), subject="task", body="second", thread=first.thread
        )
        second = ann.send(draft)
        if second.thread != first.thread or not self.mail_of("ann", tmp_path).mailbox.capabilities.carries_context:
            return  # here each message that is sent begins a thread, or an answer does not name all that it came of
        self.answer(first, tmp_path, "to the first")
        assert ann.wait_for_answer(second, 0.5).ending is Ending.TIMEOUT
        self.answer(second, tmp_path, "to the second")
        waited = ann.wait_for_answer(second, AWAITED)
        assert waited.answer is not None
        assert waited.answer.body.strip() == "to the second"

    def test_the_answer_ends_a_wait_and_counts_as_read(self, tmp_path: Path) -> None:
        self.write("bob", "ann", tmp_path, "old news")
        sent = self.write("ann", "bob", tmp_path)
        if self.carries_marks:
            self.answer(sent, tmp_path, "half way", labels=(PROGRESS,))
        self.answer(sent, tmp_path, "done")
        ann = self.person("ann", tmp_path)
        waited = ann.wait_for_answer(sent, AWAITED)
        assert waited.answer is not None
        assert (waited.ending, waited.answer.body.strip()) == (Ending.ANSWERED, "done")
        assert any("reports progress" in line for line in self.told) is self.carries_marks
        left = {ann.find(m.envelope.id).message.body.strip() for m, _ in ann.inbox(read_too=False)}
        assert left == ({"old news", "half way"} if self.carries_marks else {"old news"})

    def test_a_wait_for_what_was_sent_before_ends_with_the_answer_that_was_read(self, tmp_path: Path) -> None:
        if not self.recognises_delivery:
            return  # here nobody knows which message it was
        sent = self.write("ann", "bob", tmp_path, "same", "nightly")
        ann = self.person("ann", tmp_path)
        self.answer(sent, tmp_path, "first words")
        assert ann.wait_for_answer(sent, AWAITED).answer is not None
        again = self.write("ann", "bob", tmp_path, "same", "nightly")
        for body in ("first words", "last words"):
            waited = self.person("ann", tmp_path).wait_for_answer(again, AWAITED)
            assert waited.answer is not None
            assert (waited.ending, waited.answer.body.strip()) == (Ending.ANSWERED, body)
            self.answer(sent, tmp_path, "last words")

    def test_a_question_is_no_answer(self, tmp_path: Path) -> None:
        sent = self.write("ann", "bob", tmp_path)
        self.answer(sent, tmp_path, "which one?", Kind.QUESTION)
        wanted = Ending.BLOCKED if self.carries_marks else Ending.ANSWERED
        assert self.person("ann", tmp_path).wait_for_answer(sent, AWAITED).ending is wanted

    def test_a_wait_without_an_answer_ends_in_time(self, tmp_path: Path) -> None:
        sent = self.write("ann", "bob", tmp_path)
        waited = self.person("ann", tmp_path).wait_for_answer(sent, 0.0)
        assert (waited.ending, waited.answer) == (Ending.TIMEOUT, None)

    def test_a_drain_takes_what_waits_oldest_first_and_once(self, tmp_path: Path) -> None:
        for body in ("one", "two", "three"):
            self.write("bob", "ann", tmp_path, body)
        taken: list[str] = []

        def drained(item: Message | Unreadable) -> None:
            assert isinstance(item, Message)
            taken.append(item.body.strip())

        # Whoever reads an agent's mail looks to some brokers like its watcher: so only once asked who is there.
        ann = self.person("ann", tmp_path)
        ann.drain(drained, 2)
        assert taken == ["one", "two"]
        ann.drain(drained)
        ann.drain(drained)
        assert taken == ["one", "two", "three"]
        assert ann.inbox(read_too=False) == []

    def test_a_watch_ends_with_the_first_mail_and_leaves_it_unread(self, tmp_path: Path) -> None:
        ann, told = self.person("ann", tmp_path), list[tuple[str, Arrival]]()

        def arrived(message: Message, arrival: Arrival) -> None:
            told.append((message.envelope.id, arrival))

        assert not ann.watch(EVERYTHING, arrived, seconds=0.0)
        sent = self.write("bob", "ann", tmp_path)
        assert ann.watch(EVERYTHING, arrived, seconds=AWAITED)
        assert told == [(sent.id, Arrival.EXISTING)]
        assert not ann.watch(Search(labels=("none",)), arrived, seconds=0.0)
        assert [one.new for one in ann.inbox(read_too=False)] == [True]

    def test_the_newest_are_listed_where_not_all_are_wanted(self, tmp_path: Path) -> None:
        first, second, third = (self.write("bob", "ann", tmp_path, body).id for body in ("one", "two", "three"))
        ann = self.person("ann", tmp_path)

        def ids(search: Search) -> list[str]:
            return [one.message.envelope.id for one in ann.inbox(search, read_too=True)]

        assert ids(Search(limit=2)) == [second, third]
        assert ids(Search(limit=1, offset=1)) == [second]
        assert ids(Search(offset=2)) == [first]
        assert ids(Search(offset=3)) == ids(Search(sender="nobody")) == []

    def test_what_one_writes_to_oneself_is_not_its_own_answer(self, tmp_path: Path) -> None:
        sent = self.write("ann", "ann", tmp_path)
        assert self.person("ann", tmp_path).wait_for_answer(sent, 0.0).ending is Ending.TIMEOUT


def _code(call: Callable[[], object]) -> str:
    """The code of the MailerError that `call` raises."""
    try:
        call()
    except MailerError as fault:
        return fault.code
    raise AssertionError("nothing was raised")
