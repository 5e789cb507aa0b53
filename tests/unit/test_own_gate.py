"""Who is let in to the pages of this machine."""

from __future__ import annotations

import pytest

from agent_mailer.console.own import gate
from agent_mailer.console.own.gate import Door


def test_a_cookie_of_another_port_shuts_nobody_out() -> None:
    door = Door(9)
    entered = door.enter(door.key, "127.0.0.1:9")
    ours = entered.headers["set-cookie"].partition(";")[0]
    for others in ("", 'basket={"items": [1, 2]}; ', "a b; ", "=x; ", "caf\xe9=\xff; "):
        assert door.knows(others + ours), others
        assert not door.knows(others + ours[:-1])
    assert not door.knows("")


def test_a_link_that_was_used_opens_for_no_key_whatever() -> None:
    door = Door(9)
    assert door.enter("", "127.0.0.1:9").status_code == 403
    assert door.enter(door.key, "127.0.0.1:9").status_code == 303
    for key in (door.key, door.key[:-1], "", " "):
        again = door.enter(key, "127.0.0.1:9")
        assert (again.status_code, "set-cookie" in again.headers) == (403, False), key


def test_a_link_that_nobody_used_in_its_time_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(9)
    monkeypatch.setattr(gate, "LINK_SECONDS", -1.0)
    late = door.enter(door.key, "127.0.0.1:9")
    assert (late.status_code, "set-cookie" in late.headers) == (403, False)
