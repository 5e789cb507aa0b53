"""Who is let in to the pages of this machine."""

from __future__ import annotations

from agent_mailer.console.own.gate import Door


def test_a_cookie_of_another_port_shuts_nobody_out() -> None:
    door = Door(9)
    entered = door.enter(door.key, "127.0.0.1:9")
    ours = entered.headers["set-cookie"].partition(";")[0]
    for others in ("", 'basket={"items": [1, 2]}; ', "a b; ", "=x; ", "caf\xe9=\xff; "):
        assert door.knows(others + ours), others
        assert not door.knows(others + ours[:-1])
    assert not door.knows("")
