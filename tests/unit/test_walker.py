"""What the walker of the documents takes for the same, and what not: its blocks hold at any hour, day and zone."""

from __future__ import annotations

import pytest
from tests.e2e.walker import Paper, pattern_of, vague

SYSTEMD = "state    active (running) since {}\n"
PAUSED = "paused   limited, until {} (in {}): You've hit your limit · resets {} (UTC)\n"


def holds(promised: str, shown: str) -> bool:
    return pattern_of(promised).fullmatch(vague(shown, {})) is not None


@pytest.mark.parametrize(
    "moment",
    [
        "Fri 2026-11-27 00:00:00 UTC",
        "Sun 2027-02-28 23:59:59 XXX",
        "Mon 2026-11-30 09:05:06 CEST",
        "Wed 2026-12-02 09:05:06 +05",
    ],
)
def test_the_words_of_systemd_hold_on_every_day_and_in_every_zone(moment: str) -> None:
    assert holds(SYSTEMD.format("Sat 2026-11-21 16:03:06 UTC"), SYSTEMD.format(moment))
    assert not holds(SYSTEMD.format("Sat 2026-11-21 16:03:06 UTC"), f"state    failed since {moment}\n")
    assert not holds(SYSTEMD.format("Sat 2026-11-21 16:03:06 UTC"), "state    active (running) since\n")


@pytest.mark.parametrize("until", ["00:00", "23:59", "Mon 00:52", "2026-11-28 00:04", "Nov 28, 12:04am"])
@pytest.mark.parametrize("left", ["1 h 56 min", "2 h", "59 s", "3 min", "1 d 2 h", "2 d"])
@pytest.mark.parametrize("resets", ["6:00pm", "6pm", "12:04am", "Nov 28, 6pm", "Nov 28 at 6:00pm", "Dec 1, 2026, 6 PM"])
def test_a_moment_today_is_one_tomorrow_is_one(until: str, left: str, resets: str) -> None:
    promised = PAUSED.format("18:00", "1 h 56 min", "6:00pm")
    assert holds(promised, PAUSED.format(until, left, resets))
    assert not holds(promised, PAUSED.format(until, left, resets).replace("limited", "signed out"))
    assert not holds(promised, PAUSED.format(until, left, resets).replace("(UTC)", ""))


def test_words_around_a_moment_count() -> None:
    assert not holds("next     at 18:00, to see\n", "next     when mail comes\n")
    assert holds("turns    2026-11-21 16:03  failed  3 s\n", "turns    2026-11-27 01:02  failed  2 min\n")
    assert not holds("turns    2026-11-21 16:03  lost  3 s\n", "turns    2026-11-27 01:02  done  2 min\n")
    assert not holds("dead     1 given up\n", "dead     2 given up\n")
    assert not holds("today    1 turn\n", "today    2 turns\n")
    assert holds(
        "message  2026-11-21T16-03-50.988Z_pid593954_955793b9\n", "message  2026-11-27T00-00-00.000Z_pid1_ab12cd34\n"
    )


@pytest.mark.parametrize(
    "made", ["aabb6e20-9282-591e-910d-a20c1605fe41", "ab12cd34-0003-4567-89s-0a1b2c3d4e5f", "7min-x9", "v2.5h"]
)
def test_an_id_is_an_id_though_a_part_of_it_could_be_a_duration(made: str) -> None:
    assert holds("delivered to coder: 2cdd3f99-c1bf-59c1-a7d4-45cde945e39b\n", f"delivered to coder: {made}\n")


def test_what_is_drawn_over_is_not_seen_however_it_comes_in_pieces() -> None:
    shown = "one\r\n\x1b[36mlive 1 é\x1b[0m\r\nlive 2\r\x1b[1A\x1b[Jtwo\r\n\x1b[36mlive 3\x1b[0m\r\x1b[Jthree\r\n"
    data = shown.encode()
    for size in (1, 2, 3, 5, len(data)):
        paper = Paper()
        for start in range(0, len(data), size):
            paper.feed(data[start : start + size])
        assert paper.text == "one\ntwo\nthree\n"
