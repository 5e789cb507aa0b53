"""The logins at brokers that the machine keeps for its user."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault
from agent_mailer.setup.logins import Login, all_logins, find_login, forget_login, keep_login


def test_the_last_broker_that_was_logged_in_at_is_the_default_if_it_is_no_teams_own(tmp_path: Path) -> None:
    one, other, own = (Login(f"http://{name}", "ann", "token", "key", "id") for name in ("one", "other", "own"))
    for login, team in ((one, ""), (other, ""), (own, "/teams/shop")):
        keep_login(tmp_path, login, Disk(), team)
    assert find_login(tmp_path) == other
    assert find_login(tmp_path, "http://own/") == own
    assert all_logins(tmp_path) == [other, one]


def test_who_logs_out_has_no_teams_own_broker_for_the_default(tmp_path: Path) -> None:
    own, one, last, other = (
        Login(f"http://{name}", "ann", "token", "key", "id") for name in ("own", "one", "last", "other")
    )
    for login, team in ((own, "/teams/shop"), (one, ""), (last, ""), (other, "/teams/other")):
        keep_login(tmp_path, login, Disk(), team)
    forget_login(tmp_path, last, Disk())
    assert find_login(tmp_path) == one
    forget_login(tmp_path, other, Disk())
    assert find_login(tmp_path) == one, "it was not the default"
    forget_login(tmp_path, one, Disk())
    with pytest.raises(ConfigFault, match="no default broker"):
        find_login(tmp_path)
    assert find_login(tmp_path, own.broker_url) == own
