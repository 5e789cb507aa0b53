"""An answer to what an agent asks by mail: whether somebody has given one already is decided where it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, select

from agent_mailer.broker.messages.sending import Sent, send_all
from agent_mailer.broker.messages.submission import Submission
from agent_mailer.broker.protocol import Fault
from agent_mailer.broker.tables import agents, messages
from agent_mailer.console.operating.rows import said_in
from agent_mailer.views.values.needs import NeedView

TOO_LATE = "Somebody has answered this meanwhile, or the agent goes on; your text was not sent"

# Whoever writes to an agent counts its inbox on: so this waits for him, and he for us.
_ALONE = (
    select(agents.c.id)
    .where(agents.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(agents.c.id)
    .with_for_update(key_share=True)
)
_BY_KEY = select(messages.c.id).where(
    messages.c.from_agent_id == bindparam("sender"), messages.c.idempotency_key == bindparam("key")
)


class Answer(msgspec.Struct, frozen=True):
    """What a person answers, and to which need."""

    need: NeedView
    submission: Submission


def answer_all(connection: Connection, answers: Sequence[Answer]) -> list[Sent | Fault]:
    """Each is stored, or was before under its key; Fault 409 where the agent has got another one since it has asked.

    The agents' rows stay locked until the transaction ends: of two in the same instant, also at two processes, the
    second sees what the first has stored.
    """
    connection.execute(_ALONE, {"ids": sorted({one.need.agent_id for one in answers})}).all()
    # One after the other: the second of two for one need must see the first.
    return [_answer(connection, one) for one in answers]


def _answer(connection: Connection, one: Answer) -> Sent | Fault:
    made = one.submission
    names = {"sender": made.agent_id, "key": made.key}
    if made.key is None or connection.execute(_BY_KEY, names).first() is None:
        said = said_in(connection, made.user_id, [one.need])
        if any(known.answered for known in said.values()):
            return Fault(409, TOO_LATE)
    [sent] = send_all(connection, [made])
    return sent
