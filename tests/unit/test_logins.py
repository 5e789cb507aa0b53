"""The logins at brokers that the machine keeps for its user."""

from __future__ import annotations

from pathlib import Path

from agent_mailer.disk import Disk
from agent_mailer.setup.logins import Login, all_logins, find_login, keep_login


def test_the_last_broker_that_was_logged_in_at_is_the_default_if_it_is_no_teams_own(tmp_path: Path) -> None:
    one, other, own = (Login(f"http://{name}", "ann", "token", "key", "id") for name in ("one", "other", "own"))
    for login, team in ((one, ""), (other, ""), (own, "/teams/shop")):
        keep_login(tmp_path, login, Disk(), team)
    assert find_login(tmp_path) == other
    assert find_login(tmp_path, "http://own/") == own
    assert all_logins(tmp_path) == [other, one]
