"""What is no value of a guard's key is refused by its name, with what mends it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.typed import type_in


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        *(
            ("limits", key, value)
            for key in ("turns_per_day", "tokens_per_thread", "dollars_per_sender")
            for value in (-1, 10**15)
        ),
        ("limits", "minutes_per_day", "many"),
        ("limits", "cows_per_day", 3),
        ("guards", "pair_rounds", -1),
        ("guards", "window", 0),
        ("guards", "max_hops", 10**9),
        ("alarm", "mail_waits", -5),
    ],
)
def test_what_is_no_limit_is_refused_by_name(tmp_path: Path, table: str, key: str, value: object) -> None:
    state = tmp_path / ".agent-mailer"
    state.mkdir(mode=0o700)
    (state / "config.toml").write_text(f"[{table}]\n{key} = {msgspec.json.encode(value).decode()}\n")
    (state / "config.toml").chmod(0o600)
    shown = type_in(tmp_path, "config", "show")
    assert (shown.status, table in shown.err, key in shown.err or "whole number" in shown.err) == (78, True, True), (
        shown.err
    )


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        (
            "[limits]\nturns_per_dya = 3",
            "limits.turns_per_dya: there is no such key; turns_per_day was meant?",
            "config edit",
        ),
        ("[alarm]\nquack = 3", "alarm.quack: there is no such key: mail_waits, no_turn", "config edit"),
        ("[limits]\ndollars_per_day = nan", "a number from 0 to 1000000, not nan", "config set limits.dollars_per_day"),
        ("[guards]\nmin_disk = 5", "guards.min_disk: must be a text in quotes", "config set guards.min_disk"),
        ("[guards]\nwindow = 0", "guards.window: must be a whole number from 1", "config set guards.window 600"),
        ("alarm = 3", "alarm: it is a table", "config edit"),
        ('deny_from = "*"', 'deny_from: must be a list of words, as ["one", "two"]', "config set deny_from"),
        ('[schedule]\nname = "x"', "with two brackets: [[schedule]]", "config edit"),
        ('[[schedule]]\nname = "x"', "schedule: x: it lacks cron, subject, body", "config edit"),
        (
            '[[schedule]]\nname = "x"\ncron = "0 3 * * *"\nsubject = ""\nbody = "b"',
            "schedule: x: subject is empty",
            "config edit",
        ),
        ('[[schedule]]\nzome = "x"', "zome: there is no such key; zone was meant?", "config edit"),
        (
            '[[schedule]]\nname = "x\\n"\ncron = "0 3 * * *"\nsubject = "s"\nbody = "b"',
            "name is of a-z",
            "config edit",
        ),
        ('[[schedule]]\nname = "x"\ncron = 3\nsubject = "s"\nbody = "b"', "x: cron must be a text", "config edit"),
    ],
)
def test_what_is_wrong_in_a_table_names_its_key_and_a_command_that_mends_it(
    tmp_path: Path, text: str, said: str, fix: str
) -> None:
    state = tmp_path / ".agent-mailer"
    state.mkdir(mode=0o700)
    (state / "config.toml").write_text(text + "\n")
    (state / "config.toml").chmod(0o600)
    shown = type_in(tmp_path, "config", "show")
    assert (shown.status, said in shown.err, f"fix: agent-mailer {fix}" in shown.err) == (78, True, True), shown.err


def test_a_table_that_nobody_knows_is_shown_where_one_looks(tmp_path: Path) -> None:
    """Whoever writes `[limit]` believes that he has one."""
    state = tmp_path / ".agent-mailer"
    state.mkdir(mode=0o700)
    (state / "config.toml").write_text('address = "coder"\nruntime = "command"\n[limit]\nturns_per_day = 3\n')
    (state / "config.toml").chmod(0o600)
    shown = type_in(tmp_path, "status")
    assert "nothing here knows limit; did you mean limits? (agent-mailer config edit)" in shown.out
    assert type_in(tmp_path, "status", "--json").json["unknown"] == ["limit"]
