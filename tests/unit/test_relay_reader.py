"""What of an Agent Relay server is read, whichever way it spells it; and what its stream wakes for."""

from __future__ import annotations

import msgspec
import pytest

from agent_mailer.mailbox.port import Priority
from agent_mailer.mailbox.relay import reader
from agent_mailer.mailbox.relay.events import LONGEST_LINE, Lines


def test_a_message_is_read_in_camel_and_in_snake_case() -> None:
    camel = b'{"id":1,"from":"a","to":"b","body":"x","createdAt":1790000000000,"claimedBy":"c","claimExpiresAt":9000}'
    snake = b'{"id":1,"from_agent":"a","to_target":"b","body":"x","created_at":1790000000000,"claimed_by":"c"}'
    one, other = reader.row_in(camel), reader.row_in(snake)
    assert (one.id, one.sender, one.to, one.claimed_by) == (other.id, other.sender, other.to, other.claimed_by)
    assert one.created == 1_790_000_000.0


@pytest.mark.parametrize(
    ("claimed", "ends"), [("claimedAt", "claimExpiresAt"), ("claimed_at", "claim_expires_at"), ("claimedAt", "other")]
)
def test_a_claim_lasts_from_when_it_was_made_until_it_ends(claimed: str, ends: str) -> None:
    span = f'"{claimed}":1790000000000,"{ends}":1790000004000'
    told = f'{{"id":1,"from":"a","to":"b","body":"x","claimable":true,{span}}}'
    row = reader.row_in(told.encode())
    assert row.lease == (4.0 if ends != "other" else None)
    assert row.is_claimable
    assert reader.is_claimable(row.locator)


@pytest.mark.parametrize(
    "shape", ["[{}]", *(f'{{"{name}":[{{}}]}}' for name in ("messages", "items", "data", "results"))]
)
def test_a_message_that_cannot_be_read_hides_no_other_and_is_told(shape: str) -> None:
    rows = ('{"id":2,"from":"a","body":"later"}', '{"id":7,"body":"from nobody"}', '{"id":1,"from":"a","body":"first"}')
    found, odd = reader.rows_in(shape.replace("[{}]", f"[{','.join(rows)}]").encode())
    assert [row.body for row in found] == ["first", "later"]
    [one] = odd
    assert one.locator.startswith("row-7-")
    assert "no sender" in one.why


@pytest.mark.parametrize(
    ("severity", "said", "counts"),
    [
        ("CRITICAL", Priority.NORMAL, Priority.URGENT),
        ("info", Priority.NORMAL, Priority.LOW),
        ("", Priority.NORMAL, Priority.NORMAL),
        ("critical", Priority.LOW, Priority.LOW),
        ("info", Priority.URGENT, Priority.URGENT),
    ],
)
def test_what_the_sender_says_of_its_priority_comes_before_what_its_task_does(
    severity: str, said: Priority, counts: Priority
) -> None:
    row = reader.row_in(b'{"id":1,"from":"a","to":"b","body":"x"}')
    marks = msgspec.structs.replace(row.marks, priority=said)
    row = msgspec.structs.replace(row, severity=severity, marks=marks)
    assert reader.envelope_of(row, "th").priority is counts


@pytest.mark.parametrize(
    ("payload", "task"),
    [
        ('{"taskId":5}', "5"),
        ('{"task":{"id":5}}', "5"),
        ('"{\\"task_id\\":\\"t-5\\"}"', "t-5"),
        ('{"taskId":"a!b:c-d"}', "a!b:c-d"),
        ('{"taskId":".."}', ""),
        ("[]", ""),
        ("{}", ""),
    ],
)
def test_a_task_is_found_wherever_its_message_names_it(payload: str, task: str) -> None:
    row = reader.row_in(f'{{"id":1,"from":"a","to":"b","body":"x","payload":{payload}}}'.encode())
    assert row.task == task
    assert reader.task_of(row.locator) == task
    assert reader.number_of(row.locator) == 1
    # What a sender calls its task has nobody claim what is his alone.
    assert not reader.is_claimable(row.locator)
    assert reader.is_claimable(msgspec.structs.replace(row, is_claimable=True).locator)


@pytest.mark.parametrize(("told", "hops"), [(-5, 0), (3, 3), (10**30, reader.MOST_HOPS)])
def test_no_number_of_hops_undoes_what_counts_them(told: int, hops: int) -> None:
    row = reader.row_in(
        f'{{"id":1,"from":"a","to":"b","body":"x","meta":{{"agentMailer":{{"hops":{told}}}}}}}'.encode()
    )
    assert row.marks.hops == hops


@pytest.mark.parametrize(
    ("body", "ours"), [(b"{}", True), (b"null", False), (b"false", False), (b'{"claimed":false}', False), (b"", True)]
)
def test_a_claim_is_ours_unless_its_answer_says_otherwise(body: bytes, ours: bool) -> None:
    assert reader.was_claimed(body) is ours


@pytest.mark.parametrize("body", [b'{"cursor":7}', b'{"id":"7"}', b"7"])
def test_the_newest_number_is_read_in_each_shape(body: bytes) -> None:
    assert reader.number_in(body) == 7


@pytest.mark.parametrize("body", [b"<html>", b"", b'"x"', b"[" * 100_000, b'{"id":true}'])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    for read in (reader.row_in, reader.rows_in, reader.card_in, reader.number_in):
        with pytest.raises(reader.Strange):
            read(body)


def test_an_event_wakes_once_it_has_ended_and_not_before_nor_for_a_sign_of_life() -> None:
    lines = Lines()
    assert not lines.take(b": alive\n\n")
    assert not lines.take(b"event: message.new\r\ndata: {")
    assert lines.take(b"}\r\n\r\n")
    assert not lines.take(b"event: agent.status\ndata: {}\n\n")
    assert lines.take(b"data: {}\n\n")
    with pytest.raises(ValueError, match="end"):
        lines.take(b"x" * (LONGEST_LINE + 1))
