"""`broadcast` as an address: each contact gets the message once, whoever sends it and wherever the mail is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from tests.broker_desk import running_broker
from tests.desk import Desk, outcomes
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Gone, Message


def test_a_person_writes_to_everybody_once_and_to_no_group_that_nobody_knows(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def send(*words: str) -> tuple[int, str]:
        done = type_in(desk.base, "send", *words, "--body", "all hands", env={"AM_ROOT": str(desk.root)})
        return done.status, done.err

    assert send("--to", "broadcast,planner", "--dedupe-key", "morning")[0] == 0
    assert send("--to", "broadcast", "--dedupe-key", "morning")[0] == 0
    assert [len(desk.inbox(name)) for name in ("coder", "planner", "user")] == [1, 1, 0]
    for group in ("cap:review", "tag:", "label:a b"):
        status, said = send("--to", f"coder,{group}")
        assert status != 0, group
        assert "names a group, and nobody whom you can write to is in it" in said
    assert len(desk.inbox("coder")) == 1


def test_agents_of_a_group_get_its_mail_and_of_one_of_them_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        boxes = [MaildirMailbox(desk.disk, desk.root, name, groups=["cap:review"]) for name in ("coder", "planner")]
        for box in boxes:
            await box.open()
        try:
            for group in ("cap:review", "one-of:cap:review"):
                done = type_in(desk.base, "send", "--to", group, "--body", group, env={"AM_ROOT": str(desk.root)})
                assert done.status == 0, done.err
            claims = [[await box.claim(one) for one in (await box.pending(9)).envelopes] for box in boxes]
            assert [[isinstance(one, Message) for one in claimed] for claimed in claims] == [
                [True, True],
                [True, False],
            ]
            gone = claims[1][1]
            assert isinstance(gone, Gone)
            assert (gone.elsewhere, "coder" in gone.why) == (True, True)
            for box in boxes:
                assert (await box.pending(9)).envelopes == ()
            mine = claims[0][1]
            assert isinstance(mine, Message)
            assert await boxes[0].claim(mine.envelope, again=True) == mine
            theirs = msgspec.structs.replace(mine.envelope)
            assert isinstance(await boxes[1].claim(theirs, again=True), Gone)
        finally:
            for box in boxes:
                await box.close()

    desk = Desk(tmp_path)
    asyncio.run(scenario())


def test_an_agent_writes_to_everybody_and_is_told_of_a_group_that_is_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    stage = "agent-mailer send --to broadcast --body 'I am done'; agent-mailer send --to cap:x --body y"
    desk.shell(f"cat >/dev/null; {stage} 2>{tmp_path}/said; true")
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert [one.body.strip() for one in desk.inbox("planner")] == ["I am done"]
    assert [one.body.strip() for one in desk.inbox("user")] == ["I am done"]
    assert desk.inbox("coder") == []
    assert "cap:x names a group" in (tmp_path / "said").read_text()


@LONG
def test_at_a_broker_it_reaches_each_agent_that_the_sender_may_write_to(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        ann = broker.person("ann")
        agents = [broker.agent(ann, name) for name in ("coder", "planner")]
        shown = {"AGENT_MAILER_BROKER_URL": broker.url, "AGENT_MAILER_API_KEY": ann.key}
        done = type_in(tmp_path, "send", "--to", "broadcast", "--body", "all hands", env=shown)
        assert done.status == 0, done
        for agent in agents:
            listed = broker.call(
                "GET", f"/messages/inbox/{agent['address']}", params={"agent_id": agent["id"]}, headers=ann.header
            )
            assert [one["body"] for one in listed] == ["all hands"]
        tags = {"tags": ["rust", "写作", "cap:review"]}
        broker.call("PUT", f"/admin/agents/{agents[0]['id']}/tags", json=tags, headers=ann.login)
        done = type_in(tmp_path, "send", "--to", "cap:review", "--body", "look at it", env=shown)
        assert done.status == 0, done
        done = type_in(tmp_path, "send", "--to", "one-of:cap:review", "--body", "one of us", env=shown)
        assert done.status == 0, done
        for tag, status in (("rust", 0), ("写作", 0), ("go", 2), ("", 2)):
            done = type_in(tmp_path, "send", "--to", f"tag:{tag}", "--body", tag or "x", env=shown)
            assert (done.status, "names a group" in done.err) == (status, status == 2), done
        waiting = [
            broker.call("GET", f"/messages/inbox/{one['address']}", params={"agent_id": one["id"]}, headers=ann.header)
            for one in agents
        ]
        assert [sorted(row["body"] for row in rows) for rows in waiting] == [
            ["all hands", "look at it", "one of us", "rust", "写作"],
            ["all hands"],
        ]
