"""A configuration that changes while the watcher runs: taken once it is whole, and what nobody trusts of it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.watch_room import Scene

from agent_mailer.errors import ConfigFault
from agent_mailer.events import EventName
from agent_mailer.state.notices import NoticeKind
from agent_mailer.watch import settings
from agent_mailer.watch.settings import Settings, Taken, Trusted

TRUSTED = Trusted("person", recorded=False, others=(), digest="", subject="")


def others(digest: str) -> Trusted:
    """`command` is not as it was trusted."""
    return Trusted("person", recorded=False, others=("command",), digest=digest, subject=digest)


class Files:
    """A workdir's files as they come to be."""

    folders: tuple[Path, ...] = ()

    def __init__(self, scene: Scene) -> None:
        self._room = scene.room
        self.fresh = True
        self.half_written = False
        self.wrong = ""
        self.counts = TRUSTED

    def changed(self) -> bool:
        return self.fresh

    def being_written(self) -> bool:
        return self.half_written

    def take(self) -> Taken:
        if self.wrong:
            raise ConfigFault("bad_value", self.wrong, "agent-mailer config edit")
        return Taken(self._room.policy, self._room.runtime, self._room.prompts, self.counts)

    def trusted(self) -> Trusted:
        return self.counts


class Changing:
    def __init__(self, base: Path) -> None:
        self.scene = Scene(base, told=True)
        self.files = Files(self.scene)
        self.settings = Settings(self.scene.room, self.files)

    def takes(self, counts: Trusted = TRUSTED, wrong: str = "") -> tuple[int, int]:
        """How often somebody was told, by now, that it is not trusted; and that it is refused."""
        self.files.counts, self.files.wrong = counts, wrong
        assert self.settings.heed()
        self.settings.take()
        assert not self.settings.waiting, "it was looked at, and is not until it changes"
        said = self.scene.told
        return len(said(EventName.UNTRUSTED)), len(said(EventName.CONFIG_REFUSED))


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Changing]:
    found = Changing(tmp_path)
    yield found
    found.scene.close()


def test_each_state_that_nobody_trusts_is_told_once_and_again_after_it_was_well(changing: Changing) -> None:
    told = [changing.takes(one)[0] for one in (others("a"), others("a"), others("b"), TRUSTED, others("b"))]
    assert told == [1, 1, 2, 2, 3]
    notices = [(one.kind, one.why) for one in changing.scene.state.notices.told.waiting]
    words = "not as it was trusted: command"
    assert notices == [(NoticeKind.UNTRUSTED, words)] * 2, "the operator hears of the same keys once"


def test_what_cannot_be_acted_on_is_told_once_and_again_after_it_was_well(changing: Changing) -> None:
    """Whether somebody trusts it is told all the same."""
    said = [changing.takes(wrong=wrong)[1] for wrong in ("x", "x", "y", "", "y")]
    assert said == [1, 1, 2, 2, 3]
    assert changing.takes(others("a"), wrong="y") == (1, 3)


def test_what_is_half_written_is_looked_at_again_until_it_is_whole(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "REST", 0.0)

    async def heeded() -> None:
        woken = asyncio.Event()
        changing.settings.wake = woken.set
        changing.files.half_written = True
        for _ in range(2):
            assert not changing.settings.heed()
            async with asyncio.timeout(20):
                await woken.wait()
            woken.clear()
        changing.files.half_written = False
        assert changing.settings.heed()
        assert changing.settings.waiting

    asyncio.run(heeded())
