"""An answer by mail counts where nobody else can have written it, once, and starts no turn."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.clocks import FakeClock
from tests.desk import until
from tests.integration.test_amp_watch import AmpDesk
from tests.integration.test_approvals import PUSH, AskingDesk, outcomes_of
from tests.integration.test_confined import runs_here
from tests.pages import PROJECT
from tests.refusing import Died, Refusing
from tests.sizes import LONG

from agent_mailer.disk import SystemCalls
from agent_mailer.errors import MailerError
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Automatic, Envelope, Gone, Kind, Message
from agent_mailer.state.approvals import Answer, By, Verdict, shown_code
from agent_mailer.state.workdirs import known_workdirs
from agent_mailer.watch.answering import Said, answers_in, take_answer
from agent_mailer.watch.rules import ApprovePolicy
from agent_mailer.watch.watcher import End, Watcher


class HiddenDesk(AskingDesk):
    """Its mailbox counts as kept from the agent, as a proved sandbox keeps it."""

    def look(self, system: SystemCalls | None = None, **approve: bool) -> None:
        place = self.place()
        place.disk.system = system or place.disk.system
        lock = place.lock()
        lock.acquire()
        try:
            place.prepare()
            policy = place.policy()
            hidden = {"tells_codes": True, "mail_hidden": True, **approve}
            policy = msgspec.structs.replace(policy, approve=msgspec.structs.replace(policy.approve, **hidden))

            async def run() -> None:
                assert await Watcher(place.room(lock, policy), once=True).run() is End.DRAINED

            asyncio.run(run())
        finally:
            lock.release()

    def code(self) -> str:
        return shown_code(self.asked()[-1].code)

    def skipped(self) -> list[str]:
        return [event["why"] for event in self.log(EventName.MESSAGE_SKIPPED)]


@pytest.fixture
def desk(tmp_path: Path) -> HiddenDesk:
    found = HiddenDesk(tmp_path)
    found.configure(notify={"address": "user"})
    return found


@LONG
def test_a_question_comes_into_the_thread_and_a_reply_lets_it_run(desk: HiddenDesk) -> None:
    desk.send("push it", thread="one")
    desk.look()
    # Who is the operator, and has sent the message, is asked all the same.
    [asked] = desk.inbox()
    assert (asked.envelope.kind, asked.envelope.thread, asked.envelope.automatic) == (
        Kind.QUESTION,
        "one",
        Automatic.NOTICE,
    )
    assert f"Bash: {PUSH}" in asked.body
    assert f"first line is just: allow {desk.code()} |" in asked.body
    desk.say("mail", "reply", asked.envelope.id, "--body", f"allow {desk.code()}\n> the question")
    desk.look()
    assert desk.acts() == [PUSH]
    assert outcomes_of(desk) == ["asked", "done"]
    assert desk.skipped() == ["answer"]
    [answered] = desk.log(EventName.APPROVAL_ANSWERED)
    assert (answered["by"], answered["sender"], answered["verdict"]) == ("mail", "user", "allow")
    assert desk.answered() == ["all 1 done"]


@LONG
def test_a_no_is_told_with_its_reason_and_always_stands(desk: HiddenDesk) -> None:
    desk.send(thread="one")
    desk.look()
    desk.send(f"deny {desk.code()} not on a friday", thread="somewhere else")
    desk.look()
    assert desk.answered()[-1] == "deny: not on a friday"
    desk.send(thread="two")
    desk.look()
    desk.send(f"allow always {desk.code()}", thread="two")
    desk.look()
    assert desk.acts() == [PUSH]
    assert [one.digest for one in desk.place().state.approvals.standing()] == [desk.asked()[-1].digest]


def test_what_counts_for_nothing_is_told_once_and_starts_no_turn(desk: HiddenDesk) -> None:
    desk.send(thread="one")
    desk.look()
    [asked] = desk.asked()
    desk.send(f"deny {desk.code()} no", thread="one")
    desk.look()
    desk.send(f"allow {desk.code()}", thread="one")
    desk.send("allow K0K0-K0K0", thread="two")
    before = len(desk.inbox())
    desk.look()
    desk.look()
    told = desk.inbox()[before:]
    assert {message.envelope.automatic for message in told} == {Automatic.NOTICE}
    assert sorted((m.envelope.thread, m.body.split("why: ")[1].split("\n")[0]) for m in told) == [
        ("one", "it was answered before: deny"),
        ("two", "no question has that code"),
    ]
    assert desk.acts() == []
    assert outcomes_of(desk) == ["asked", "done"]
    assert desk.place().state.approvals.answer_to(asked.id) is not None


def test_an_answer_is_kept_before_its_mail_counts_as_settled(desk: HiddenDesk) -> None:
    """Whoever is killed between the two, or has no room for it just then, finds it again."""
    desk.send(thread="one")
    desk.look()
    desk.send(f"deny {desk.code()} not today", thread="one")
    dies = Refusing("approvals", code=None)
    with pytest.raises(Died):
        desk.look(dies)
    assert dies.refused == 1
    desk.look()
    assert desk.answered()[-1] == "deny: not today"
    assert desk.skipped() == ["answer"]


@pytest.mark.parametrize(
    ("sender", "body"),
    [
        ("planner", "allow {}"),
        ("coder", "allow {}"),
        ("user", "I say:\nallow {}"),
        ("user", "Allow {}"),
        ("user", "allow {} but be careful"),
    ],
)
def test_any_other_mail_is_ordinary_mail(desk: HiddenDesk, sender: str, body: str) -> None:
    desk.send(thread="one")
    desk.look()
    desk.send(body.format(desk.code()), sender=sender, thread="two")
    desk.look()
    assert outcomes_of(desk) == ["asked", "asked"]
    assert desk.skipped() == []
    assert desk.acts() == []
    assert desk.place().state.approvals.answered() == frozenset()


def test_where_the_agent_can_write_into_the_mailbox_nobodys_mail_answers(desk: HiddenDesk) -> None:
    desk.send(thread="one")
    desk.once()
    desk.send(f"allow {desk.code()}", thread="two")
    desk.once()
    assert outcomes_of(desk) == ["asked", "asked"]
    assert desk.acts() == []


def test_an_agent_of_this_user_is_no_person_whatever_notify_says(
    desk: HiddenDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    other = AskingDesk(tmp_path / "other")
    other.configure(address="planner", maildir_root=str(desk.root))
    known_workdirs(desk.disk).remember(other.workdir)
    desk.configure(notify={"address": "planner"}, sandbox={"kind": "bwrap"})
    assert not desk.place().policy().who.is_person("planner")
    desk.configure(sandbox={"kind": "off"})
    assert desk.place().policy().who.is_person("planner")


class Bodies:
    """Counts how many bodies are read of a real mailbox."""

    def __init__(self, desk: AskingDesk) -> None:
        self._mailbox = desk.place().mailbox()
        self.capabilities, self.address = self._mailbox.capabilities, self._mailbox.address
        self.read_ids: list[str] = []

    async def listed(self) -> tuple[Envelope, ...]:
        return (await self._mailbox.pending(100)).envelopes

    async def read(self, envelope: Envelope) -> Message | Gone:
        self.read_ids.append(envelope.id)
        return await self._mailbox.read(envelope)


def test_a_body_is_looked_at_once_only_of_a_person_and_only_where_something_was_asked(desk: HiddenDesk) -> None:
    mailbox = Bodies(desk)
    place = desk.place()
    policy = msgspec.structs.replace(place.policy(), approve=ApprovePolicy(mail_hidden=True))

    def look() -> dict[str, Said]:
        async def run() -> dict[str, Said]:
            return await answers_in(mailbox, place.state, policy, await mailbox.listed())  # type: ignore[arg-type]

        return asyncio.run(run())

    mine, theirs = desk.send("hello"), desk.send("allow K0K0-K0K0", sender="planner")
    assert look() == {}
    assert mailbox.read_ids == []
    desk.look()
    asked = {one.message_id for one in desk.asked()}
    assert asked == {mine, theirs}
    mine = desk.send("hello")
    desk.send("allow K0K0-K0K0", sender="planner")
    assert look() == look() == {}
    assert mailbox.read_ids == [mine]


def test_an_answer_is_taken_once_whatever_is_killed_in_between(desk: HiddenDesk) -> None:
    """As if the watcher died after the answer was durable, and before its mail was taken."""
    desk.send(thread="one")
    desk.look()
    [asked] = desk.asked()
    answer = desk.send(f"allow {desk.code()}", thread="one")
    place = desk.place()
    place.state.approvals.answer(asked, Answer(Verdict.ALLOW, 1.0, By.MAIL, who="user", message_id=answer))
    before = len(desk.inbox())
    desk.look()
    assert desk.acts() == [PUSH]
    assert [message.body.strip() for message in desk.inbox()[before:]] == ["all 1 done"]
    assert desk.skipped() == ["answer"]


@pytest.mark.parametrize("over", [True, False])
def test_a_late_answer_is_told_and_changes_nothing(desk: HiddenDesk, over: bool) -> None:
    """Its message is done with, or the time alone is over, which nobody was there to write down."""
    desk.send(thread="one")
    desk.look()
    [asked] = desk.asked()
    place = desk.place(None if over else FakeClock(asked.expires_at))
    place.folder.hold()
    if over:
        place.state.approvals.ended([asked.id], "", (), over=True)
    lock = place.lock()
    lock.acquire()
    try:
        room = place.room(lock)
        envelope = Envelope("m-1", "one", "user", 1.0, "1", "x")
        for _ in range(2):
            take_answer(place.state, room.notices, envelope, Said(Verdict.ALLOW, asked.code))
    finally:
        lock.release()
    assert place.state.approvals.answer_to(asked.id) is None
    [waiting] = place.state.notices.told.waiting
    assert (waiting.sender, waiting.why) == ("user", "it came too late, the agent goes on without it")


@LONG
def test_within_a_real_sandbox_the_agent_neither_reads_the_code_nor_answers_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    desk = AskingDesk(tmp_path)
    desk.done = desk.workdir / "done"
    plan = json.loads((desk.base / "plan.json").read_text())
    (desk.workdir / "plan.json").write_text(json.dumps({**plan, "done": str(desk.done)}))
    answers = desk.place().state.approvals.folder
    box = desk.root / "agents/coder/inbox/new"
    tries = f"grep -r . {desk.root} {answers}; cp forged.md {box}; ls forged.md; cat {desk.state}/config.toml"
    agent = f"({tries}) >>seen 2>&1; exec {sys.executable} -m tests.asking_agent plan.json"
    desk.configure(
        command=["/bin/sh", "-c", agent],
        sandbox={"kind": runs_here("bwrap"), "read": [str(PROJECT)]},
        notify={"address": "user"},
    )
    desk.send("one", thread="one")
    desk.once()
    [first] = desk.asked()
    # As if it knew the code all the same.
    desk.send(f"allow {first.code}", thread="one")
    [forged] = box.iterdir()
    forged.rename(desk.workdir / "forged.md")
    desk.send("two", thread="two")
    desk.once()
    assert len(desk.asked()) == 2
    seen = (desk.workdir / "seen").read_text()
    assert "forged.md" in seen
    for code in (first.code, shown_code(first.code)):
        assert code not in seen
    assert desk.place().state.approvals.answered() == frozenset()
    [question, _] = desk.inbox()
    assert f"first line is just: allow {shown_code(first.code)} |" in question.body
    (desk.workdir / "forged.md").unlink()
    desk.send(f"allow {first.code}", thread="one")
    desk.once()
    assert desk.acts() == [PUSH]


# At our broker.


class AskingAtBroker(AmpDesk):
    def __init__(self, base: Path, broker: BrokerDesk, person: Person) -> None:
        super().__init__(base, broker, person)
        asking = AskingDesk(base / "asking")
        self.configure(
            command=asking.settings["command"],
            env=asking.settings["env"],
            command_output="jsonl",
            permission_mode="acceptEdits",
        )
        self.asking = asking
        self.operator = broker.call("GET", "/admin/human-operator", headers=person.login)

    def asked(self) -> str:
        until(lambda: self.place().state.approvals.open(), "the question")
        return shown_code(self.place().state.approvals.open()[-1].code)

    def told(self, agent: dict[str, str]) -> list[dict[str, str]]:
        path = f"/messages/inbox/{agent['address']}?agent_id={agent.get('id') or agent['agent_id']}"
        found: list[dict[str, str]] = self.broker.call("GET", path, headers=self.person.header)
        return found


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerDesk, Person]]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk, desk.person("someone")


@LONG
def test_at_our_broker_the_operator_answers_and_nobody_else(broker: tuple[BrokerDesk, Person], tmp_path: Path) -> None:
    desk = AskingAtBroker(tmp_path, *broker)
    desk.configure(notify={"address": desk.operator["address"]})
    desk.mail()
    with desk.watching():
        code = desk.asked()
        until(lambda: desk.told(desk.operator), "the question by mail")
        assert f"first line is just: allow {code} |" in desk.told(desk.operator)[0]["body"]
        desk.mail(f"allow {code}")
        until(lambda: len(desk.log(EventName.TURN_ENDED)) == 2, "the turn for mail that is no answer")
        assert desk.place().state.approvals.answered() == frozenset()
        boss = {"id": desk.operator["agent_id"], "address": desk.operator["address"]}
        desk.broker.send(desk.person, boss, desk.coder["address"], subject="Re:", body=f"allow {code}")
        until(desk.asking.acts, "what was allowed")
    [answered] = desk.log(EventName.APPROVAL_ANSWERED)
    assert (answered["by"], answered["sender"]) == ("mail", desk.operator["address"])


@LONG
def test_at_our_broker_the_sender_answers_where_he_is_asked(broker: tuple[BrokerDesk, Person], tmp_path: Path) -> None:
    desk = AskingAtBroker(tmp_path, *broker)
    desk.configure(approve={"by": "sender"})
    stranger = desk.broker.agent(desk.person, "stranger")
    sent = desk.mail()
    with desk.watching():
        code = desk.asked()
        until(lambda: desk.answers(), "the question to the sender")
        [asked] = desk.answers()
        assert asked["thread_id"] == sent["thread_id"]
        assert f"allow {code} |" in asked["body"]
        desk.broker.send(desk.person, stranger, desk.coder["address"], subject="x", body=f"allow {code}")
        until(lambda: len(desk.log(EventName.TURN_ENDED)) == 2, "the turn for a stranger's mail")
        assert desk.place().state.approvals.answered() == frozenset()
        desk.mail(f"deny {code} no")
        until(lambda: any("deny: no" in one["body"] for one in desk.answers()), "the answer of the agent")
    assert desk.asking.acts() == []


def test_the_key_takes_one_of_two_words(tmp_path: Path) -> None:
    desk = AskingDesk(tmp_path)
    desk.configure(approve={"by": "anybody"})
    with pytest.raises(MailerError, match=r"approve\.by.*operator, sender"):
        desk.place().config  # noqa: B018
