"""What the disk has refused nobody takes for done: neither who asked for it, nor who comes after him."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.refusing import Refusing
from tests.state_changes import CASES, state_in

from agent_mailer.disk import SystemCalls
from agent_mailer.state import State


@pytest.mark.parametrize("name", CASES)
def test_what_the_disk_refuses_is_not_done_and_is_done_once_when_it_does_not(tmp_path: Path, name: str) -> None:
    before, act, refused, look, calls, _ = CASES[name]

    def seen(state: State) -> str:
        return repr(look(state))

    state = state_in(tmp_path)
    before(state)
    was = seen(state)
    state.folder.disk.system = system = Refusing(refused, *calls)
    with pytest.raises(OSError, match="No space"):
        act(state)
    assert system.refused == 1
    assert seen(state) == was, "it was refused"
    assert seen(state_in(tmp_path)) == was, "the next watcher does not know of it either"
    state.folder.disk.system = SystemCalls()
    act(state)
    done = seen(state)
    assert done != was, "it is done when it is asked for again"
    assert seen(state_in(tmp_path)) == done, "it outlives this watcher"
    again = state_in(tmp_path)
    act(again)
    assert seen(again) == done, "asked for once more it changes nothing"
