"""What turns have taken, summed up: by day and by agent of each workdir's ledger, by all else of the turns it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from agent_mailer.errors import MailerError
from agent_mailer.runtimes.port import Counted, Usage
from agent_mailer.state.usage import Spend
from agent_mailer.views.values.history import SpendingView, SpentView

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.state.records import TurnRecord


def uncounted(place: Workplace) -> tuple[str, ...]:
    """Of the limits that are set those that hold nothing, since the agent program does not count what they are of."""
    limits = place.config.limits
    named = [key for key in limits.__struct_fields__ if key.startswith(tuple(Counted)) and getattr(limits, key)]
    if not named:
        return ()
    counts = counts_of(place)
    return tuple(key for key in named if not key.startswith(tuple(counts)))


def counts_of(place: Workplace) -> frozenset[Counted]:
    """All of it where that is not to be known: its configuration is told to be wrong elsewhere."""
    try:
        return place.runtime().traits.counts
    except (MailerError, OSError):
        return frozenset(Counted)


class By(StrEnum):
    """What is summed up together."""

    DAY = "day"
    AGENT = "agent"
    THREAD = "thread"
    SENDER = "sender"
    PROGRAM = "program"
    MODEL = "model"


def _model_of(record: TurnRecord) -> str:
    said = record.settlement.model if record.settlement is not None else ""
    return said or f"{record.runtime} (it does not say)"


_OF_A_TURN: Mapping[By, Callable[[TurnRecord], str]] = {
    By.THREAD: lambda record: record.envelope.thread,
    By.SENDER: lambda record: record.envelope.sender,
    By.PROGRAM: lambda record: record.runtime,
    By.MODEL: _model_of,
}


def spending(places: Sequence[Workplace], by: By, days: int, now: float) -> SpendingView:
    """Of the last `days` days in UTC, today among them; days in their order, all else the dearest first."""
    since = (datetime.fromtimestamp(now, UTC) - timedelta(days=days - 1)).date().isoformat()
    rows: dict[str, Spend] = {}
    for place in places:
        for name, spend in _of(place, by, since):
            _add(rows.setdefault(name, Spend()), spend)
    total = Spend()
    for spend in rows.values():
        _add(total, spend)
    named = (
        rows.items()
        if by is By.DAY
        else sorted(rows.items(), key=lambda row: (-row[1].usage.cost_usd, -row[1].seconds))
    )
    return SpendingView(by.value, since, tuple((name, _view(spend)) for name, spend in named), _view(total))


def _of(place: Workplace, by: By, since: str) -> Iterable[tuple[str, Spend]]:
    if by in (By.DAY, By.AGENT):
        agent = place.config.agent_name or place.handle
        for date, spend in place.state.usage.days().items():
            if date >= since:
                yield date if by is By.DAY else agent, spend
        return
    name_of = _OF_A_TURN[by]
    for record in filter(None, map(place.state.turns.load, place.state.turns.ids())):
        settlement = record.settlement
        # As the ledger counts: what ran, on the day on which it was decided.
        if settlement is None or record.process is None or _date(settlement.decided_at) < since:
            continue
        spend = Spend()
        spend.add(settlement.seconds, settlement.usage)
        yield name_of(record), spend


def _add(total: Spend, spend: Spend) -> None:
    total.turns += spend.turns
    total.seconds = round(total.seconds + spend.seconds, 3)
    total.usage = total.usage.plus(spend.usage)


def _view(spend: Spend) -> SpentView:
    usage: Usage = spend.usage
    cost = round(usage.cost_usd, 6)
    return SpentView(spend.turns, spend.seconds, usage.input_tokens, usage.output_tokens, cost)


def _date(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return ""
