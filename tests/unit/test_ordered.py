"""What waits, in order: whatever has come and gone, it is as if all of it was sorted anew."""

from __future__ import annotations

import random

import pytest

from agent_mailer.mailbox.port import URGENCY, Envelope, Priority, oldest_of_each
from agent_mailer.ordered import Ordered, Place


def place(one: Envelope) -> Place:
    return Place(one.order, one.id, one.thread, URGENCY[one.priority])


@pytest.mark.parametrize("threads", [1, 4, 40])
def test_it_chooses_as_a_new_sorting_would(threads: int) -> None:
    chance = random.Random(threads)
    ordered, waiting = Ordered(len(Priority)), dict[str, Envelope]()
    for number in range(400):
        if waiting and (chance.random() < 0.45 or len(waiting) > 60):
            ordered.remove(place(waiting.pop(chance.choice(list(waiting)))))
        else:
            order, thread = f"{chance.randrange(90):02d}", f"t{chance.randrange(threads)}"
            priority = chance.choices(list(Priority), [1, 8, 2])[0]
            one = Envelope(f"m{number:03d}", thread, "user", 0.0, f"{order} m{number:03d}", "", priority=priority)
            waiting[one.id] = one
            ordered.add(place(one))
        for limit in (0, 1, 5, 30, 100):
            assert ordered.first(limit) == [one.id for one in oldest_of_each(waiting.values(), limit)]
    assert {one.priority for one in waiting.values()} == set(Priority)


def test_what_was_not_added_cannot_be_removed() -> None:
    ordered = Ordered(len(Priority))
    ordered.add(Place("1", "a", "t", 0))
    for other in (Place("1", "b", "t", 0), Place("2", "a", "t", 0), Place("1", "a", "u", 0), Place("1", "a", "t", 1)):
        with pytest.raises(KeyError):
            ordered.remove(other)
    assert ordered.first(1) == ["a"]
