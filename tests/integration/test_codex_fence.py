"""The watcher tries codex's own sandbox before a program's first turn, and again once the program has changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.desk import SOON, Desk, outcomes
from tests.integration.test_confined import runs_here

from agent_mailer.events import EventName
from agent_mailer.runtimes.port import RuntimeMissing
from agent_mailer.watch.watcher import End, Watcher

HOLDS = "echo looked"
OPENS = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
DOES_NOT_START = "echo 'bwrap: No permissions to create new namespace' >&2; exit 1"


class CodexDesk(Desk):
    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.tried = base / "tried"
        self.program(HOLDS)
        self.configure(runtime="codex", codex_command=str(base / "codex"), permission_mode="acceptEdits")

    def program(self, sandbox: str, name: str = "codex") -> None:
        """A codex whose sandbox is this shell code; its turns answer, and the next one takes its place."""
        answer = '{"type":"item.completed","item":{"id":"i","type":"agent_message","text":"the answer"}}'
        end = '{"type":"turn.completed","usage":{"input_tokens":1,"cached_input_tokens":0,"output_tokens":1}}'
        thread = '{"type":"thread.started","thread_id":"01234567-89ab-7def-8123-456789abcdef"}'
        change = f"[ ! -e '{self.base}/codex.next' ] || mv '{self.base}/codex.next' '{self.base}/codex'"
        new = self.base / "codex.new"
        new.write_text(
            f"#!/bin/sh\nif [ \"$1\" = sandbox ]; then\necho x >>'{self.tried}'\n{sandbox}\nexit\nfi\n"
            f"case $* in *exec*) cat >/dev/null; {change}; printf '%s\\n' '{thread}' '{answer}' '{end}';; esac\n"
        )
        new.chmod(0o755)
        new.rename(self.base / name)

    def times(self) -> int:
        return len(self.tried.read_text().split()) if self.tried.exists() else 0


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CodexDesk:
    # Codex does without a profile where its folder lies in that of temporary files.
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return CodexDesk(tmp_path)


def test_a_sandbox_that_holds_is_tried_once_for_all_turns(desk: CodexDesk) -> None:
    for subject in ("one", "two", "three"):
        desk.send(subject)
    assert outcomes(desk.once()) == ["done"] * 3
    assert desk.times() == 1


def test_one_that_lets_its_turns_touch_the_state_starts_none(desk: CodexDesk) -> None:
    desk.program(OPENS)
    desk.send()
    [end] = [event for event in desk.once() if event.event is EventName.TURN_ENDED]
    assert end.fields["outcome"] == "unavailable"
    assert "in codex's sandbox it can read" in str(end.fields["detail"])
    assert not desk.log(EventName.TURN_STARTED)
    desk.program(HOLDS)
    desk.resume()
    assert outcomes(desk.once()) == ["done"]


def test_what_was_found_open_once_is_refused_each_time(desk: CodexDesk) -> None:
    desk.program(OPENS)
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    place.prepare()
    program = place.room(lock).program

    async def refused(turn_id: str) -> None:
        with pytest.raises(RuntimeMissing, match="in codex's sandbox it can read"):
            await program.require_fence(desk.workdir, turn_id, sandbox=True)

    for number in range(2):
        asyncio.run(refused(f"turn-{number}"))
    lock.release()
    assert desk.times() == 2


def test_one_that_does_not_start_touches_nothing_and_can_still_answer(desk: CodexDesk) -> None:
    desk.program(DOES_NOT_START)
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert desk.times() == 1


@pytest.mark.parametrize("kind", ["off", "landlock"])
def test_one_that_does_not_hear_the_hook_by_which_a_person_is_asked_starts_no_turn(
    desk: CodexDesk, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Only where somebody is to be asked, whatever its turns run in; and it is tried once, as its sandbox is."""
    if kind != "off":
        monkeypatch.delenv("AGENT_MAILER_SANDBOX")
        desk.configure(sandbox={"kind": runs_here(kind), "read": [str(desk.base)]})
    trial = desk.base / "trials"
    real = desk.base / "codex.real"
    (desk.base / "codex").rename(real)
    unheard = f"case $* in *'-- trial') echo x >>'{trial}'; [ -e '{desk.base}/heard' ] || exit 1;; esac"
    (desk.base / "codex").write_text(f'#!/bin/sh\n{unheard}\nexec {real} "$@"\n')
    (desk.base / "codex").chmod(0o755)
    desk.send("one")
    assert outcomes(desk.once()) == ["done"]
    assert not trial.exists()
    desk.configure(approve={"tools": ["Bash"]})
    desk.send("two")
    [end] = [event for event in desk.once() if event.event is EventName.TURN_ENDED]
    assert end.fields["outcome"] == "unavailable"
    assert "codex does not ask before it acts" in str(end.fields["detail"])
    (desk.base / "heard").touch()
    desk.resume()
    desk.send("three")
    assert outcomes(desk.once()) == ["done", "done"]
    assert trial.read_text() == "x\n" * 2


def test_a_program_that_changes_is_tried_anew(desk: CodexDesk) -> None:
    """Between two turns of one watcher."""
    desk.program(OPENS, name="codex.next")
    desk.send("one")
    desk.send("two")
    assert outcomes(desk.once()) == ["done", "unavailable"]
    assert desk.times() == 2
    assert len(desk.log(EventName.TURN_STARTED)) == 1


def test_who_is_stopped_while_it_is_tried_has_begun_nothing(desk: CodexDesk) -> None:
    """A trial can take half a minute, and nobody waits for it. The message has not been tried at all."""
    desk.program("exec sleep 60")
    desk.send()
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    place.prepare()
    watcher = Watcher(place.room(lock))
    place.log.listen(lambda record: watcher.stop() if record.event is EventName.TURN_CLAIMED else None)

    async def watch() -> End:
        async with asyncio.timeout(SOON):
            return await watcher.run()

    assert asyncio.run(watch()) is End.STOPPED
    lock.release()
    desk.program(HOLDS)
    assert outcomes(desk.once()) == ["done"]
    assert [one["attempt"] for one in desk.log(EventName.TURN_CLAIMED)] == [1, 1]
    assert len(desk.log(EventName.TURN_STARTED)) == 1
