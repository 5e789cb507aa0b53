"""What the turn folders still tell when a state file is damaged."""

from __future__ import annotations

from agent_mailer.state.dead_letters import DeadLetters
from agent_mailer.state.processed import Processed
from agent_mailer.state.records import RetryEntry, TurnRecord
from agent_mailer.state.turns import TurnStore


def remake_retries(turns: TurnStore, processed: Processed, dead_letters: DeadLetters) -> dict[str, RetryEntry]:
    """Every message whose newest turn left it to be done, as that turn left it.

    The newest is the one of the latest revision: the clock, and with it the order of the turns' ids, may have jumped. A
    message that is given up, but neither settled nor among the dead letters, was asked to run again.
    """
    newest: dict[str, TurnRecord] = {}
    for turn_id in turns.ids():
        record = turns.load(turn_id)
        if record is None or record.settlement is None:
            continue
        known = newest.get(record.envelope.id)
        if known is None or _revision(known) <= _revision(record):
            newest[record.envelope.id] = record
    found: dict[str, RetryEntry] = {}
    for message_id, record in newest.items():
        settlement = record.settlement
        if settlement is None or message_id in processed:
            continue
        if settlement.retry is not None:
            found[message_id] = settlement.retry
        elif settlement.dead is not None and turns.is_settled(record.turn_id) and not dead_letters.find(message_id):
            found[message_id] = RetryEntry(
                record.envelope, history=settlement.dead.history, revision=_revision(record) + 1
            )
    return found


def _revision(record: TurnRecord) -> int:
    return record.rerun.revision if record.rerun is not None else 0
