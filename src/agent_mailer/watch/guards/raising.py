"""What a person raises for today, by a command or from afar: which limit is meant, and until when it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent_mailer.errors import UsageFault
from agent_mailer.names import printable
from agent_mailer.state.lifts import Order, OrderVerb
from agent_mailer.watch.guards.budgets import BudgetPolicy, midnight

if TYPE_CHECKING:
    from agent_mailer.watch.rules import WatchPolicy

HOURLY = "turns_per_hour"
LARGEST = 1e12
_LIMITS, _GUARDS = "limits", "guards"


class Limit(msgspec.Struct, frozen=True):
    """A limit by the name of its key, within its table and with it, and what it is to be."""

    name: str
    key: str
    value: float

    @property
    def for_good(self) -> str:
        """The command that sets it for every day."""
        return f"agent-mailer config set {self.key} {self.value:.15g}"


def limit_of(typed: str, value: str) -> Limit:
    """Raises UsageFault where there is no such limit, or that is no value for one."""
    known = (HOURLY, *BudgetPolicy().names())
    table, _, name = typed.rpartition(".")
    key = f"{_GUARDS if name == HOURLY else _LIMITS}.{name}"
    if name not in known or table not in ("", key.partition(".")[0]):
        raise UsageFault("unknown_limit", f"there is no limit {printable(typed)!r}", f"one of: {', '.join(known)}")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number <= LARGEST:
        raise UsageFault(
            "bad_value", f"{printable(value)!r} is no limit", f"give a number above 0, up to {LARGEST:.0f}"
        )
    return Limit(name, key, number)


def until_tomorrow(policy: WatchPolicy, limit: Limit, now: float) -> Order:
    """The order that raises it until the local day of `now` ends. Raises UsageFault where it is not set."""
    if not (policy.guards.turns_per_hour if limit.name == HOURLY else getattr(policy.budget, limit.name)):
        why = f"{limit.key} is not set: nothing keeps turns from going beyond it"
        raise UsageFault("not_set", why, limit.for_good)
    return Order(OrderVerb.RAISE, (f"{limit.name}={limit.value!r}",), midnight(now, 1))
