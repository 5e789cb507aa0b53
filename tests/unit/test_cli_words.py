"""From what was typed to what is meant, and from values to what is shown."""

from __future__ import annotations

import json

import pytest

from agent_mailer.amounts import duration
from agent_mailer.cli.mail.steps import about, told
from agent_mailer.cli.terminal.printing import screen_text
from agent_mailer.cli.terminal.tables import columns
from agent_mailer.demo.story import is_trouble, tell
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.port import Envelope, Message
from agent_mailer.names import parse_age, pick, split_addresses

KNOWN = ["2025-01-01_pid1_aaaa", "2025-01-02_pid2_bbbb", "2025-01-02_pid3_abab", "x"]


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [("2025-01-01", KNOWN[0]), ("bbbb", KNOWN[1]), ("x", "x"), (KNOWN[2], KNOWN[2]), ("pid3_abab", KNOWN[2])],
)
def test_pick_takes_what_is_unique(typed: str, chosen: str) -> None:
    assert pick(typed, KNOWN, "message", "list") == chosen


def test_pick_prefers_the_whole_name_over_a_longer_one() -> None:
    assert pick("a", ["ab", "a"], "thread", "list") == "a"
    assert pick("same", ["same", "same"], "thread", "list") == "same"


def test_pick_says_what_it_could_be_or_that_there_is_none() -> None:
    with pytest.raises(UsageFault, match=r"could be 2025-01-01_pid1_aaaa, .*pid3_abab"):
        pick("2025", KNOWN, "message", "list")
    for typed in ("", "nope", "5"):
        with pytest.raises(MailerError, match="no message") as fault:
            pick(typed, KNOWN, "message", "list")
        assert not isinstance(fault.value, UsageFault)
    with pytest.raises(MailerError, match=r"\\x1b"):
        pick("\x1b[2J", KNOWN, "message", "list")


@pytest.mark.parametrize(
    ("text", "seconds"), [("14d", 14 * 86400), ("36h", 129600), ("1.5m", 90), ("0s", 0), ("2W", 1209600)]
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "14", "d", "-1d", "1d2h", "nan d", "١d"])
def test_ages_that_are_none(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_age(text)


def test_addresses_come_once_however_they_are_given() -> None:
    assert split_addresses(["a,b", " c ", "a", ","]) == ("a", "b", "c")


def test_screen_text_keeps_writing_and_shows_what_steers() -> None:
    kept = "line\n\ttab \u3000ideographic\u00a0space 👩\u200d💻 عربي"
    assert screen_text(kept) == kept
    assert (
        screen_text("\x1b[2J\r\x07\u202e\u2028\x9b\ufeff\ue000") == "\\x1b[2J\\r\\x07\\u202e\\u2028\\x9b\\ufeff\\ue000"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (85, "1 min"),
        (200, "3 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (360_000, "4 d 4 h"),
        (345_600, "4 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("p2p/coder__user", "p2p/coder__user"),
        ("two words", "'two words'"),
        ("x; touch owned", "'x; touch owned'"),
        ("$(id)", "'$(id)'"),
        ("it's", """'it'"'"'s'"""),
    ],
)
def test_what_can_be_done_next_is_one_command_whatever_others_have_called_their_mail(
    name: str, quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told({}, *about([Message(Envelope(name, name, "user", 0.0, "1", "x.md"), "subject", "body")]))
    assert [step["command"] for step in json.loads(capsys.readouterr().out)["next"]] == [
        f"agent-mailer mail reply {quoted} --body TEXT",
        f"agent-mailer mail thread {quoted}",
    ]


def test_columns_are_as_wide_as_they_need() -> None:
    assert columns([("a", "1"), ("long", "22")], ("n", "v")) == "n     v\na     1\nlong  22"


def test_the_story_tells_what_a_newcomer_needs_and_flags_trouble() -> None:
    assert tell({"event": "turn_claimed", "sender": "user\x1b"}) == "has mail from user\\x1b"
    assert tell({"event": "session_bound"}) == ""
    assert tell({"event": 5}) == tell({}) == ""
    assert is_trouble({"event": "dead_letter", "why": "x"})
    assert tell({"event": "dead_letter", "why": "broke"}) == "trouble: dead letter: broke"
    assert not is_trouble({"event": "turn_ended"})
