"""The configuration read again while its watcher runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.desk import Desk

from agent_mailer.assemble import Workplace
from agent_mailer.config import Loaded
from agent_mailer.errors import ConfigFault
from agent_mailer.prompts import PromptKind
from agent_mailer.retake import ConfigFiles
from agent_mailer.watch.settings import Settings


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def files_of(desk: Desk) -> ConfigFiles:
    place = desk.place()
    place.folder.hold()
    place.trust.remember()
    return ConfigFiles(place, place.trust.verdict)


def test_the_first_look_takes_what_may_have_changed_before_it(desk: Desk) -> None:
    files = files_of(desk)
    assert files.changed()
    assert not files.being_written()
    taken = files.take()
    assert (taken.now, taken.next_turn, taken.restart) == ((), (), ())
    assert not files.changed()


def test_a_file_that_is_written_in_place_just_now_may_be_half_there(desk: Desk) -> None:
    files = files_of(desk)
    files.take()
    path = desk.state / "config.toml"
    whole = path.read_text()
    path.write_text("")
    assert files.changed()
    assert files.being_written()
    long_ago = time.time() - 60
    os.utime(path, (long_ago, long_ago))
    assert not files.being_written()
    fresh = path.with_name("fresh")
    fresh.write_text(f"max_retries = 7\n{whole}")
    fresh.replace(path)
    assert files.changed()
    assert not files.being_written()
    assert files.take().now == ("max_retries",)


def test_so_may_any_other_of_the_files_that_are_read_again(desk: Desk) -> None:
    prompt = desk.place().folder.templates / f"{[*PromptKind][-1]}.md"
    _write(prompt, "Work.")
    files = files_of(desk)
    files.take()
    _write(prompt, "Wo")
    assert files.being_written()


CHANGES: dict[str, Callable[[Workplace], object]] = {
    "what is trusted": lambda place: os.utime(place.trust.keeper.path(place.workdir)),
    "a prompt": lambda place: _write(place.folder.templates / f"{[*PromptKind][-1]}.md", "Work."),
    "in place, at the same time and as long": lambda place: _exchange_a_letter(place.folder.config),
}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def _exchange_a_letter(path: Path) -> None:
    before = path.stat()
    path.write_text(path.read_text().replace("coder", "coden"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_has_changed_is_looked_at(desk: Desk, what: str) -> None:
    files = files_of(desk)
    files.take()
    CHANGES[what](files._place)
    assert files.changed()


def test_what_changes_while_it_is_read_is_read_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(desk)
    trust, path = files._place.trust, desk.state / "config.toml"
    load = trust.load

    def then_changed() -> Loaded:
        loaded = load()
        path.write_text(f"max_retries = 7\n{path.read_text()}")
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr(trust, "load", then_changed)
        files.take()
    assert files.changed()
    assert files.take().now == ("max_retries",)


def test_what_stands_in_the_future_was_not_written_just_now(desk: Desk) -> None:
    files = files_of(desk)
    files.take()
    later = time.time() + 3600
    os.utime(desk.state / "config.toml", (later, later))
    assert files.changed()
    assert not files.being_written()


def test_what_is_taken_at_a_start_stays_until_then(desk: Desk) -> None:
    files = files_of(desk)
    files.take()
    place = files._place
    desk.configure(poll_interval_idle=7, turn_timeout=9, model="m", command=["other"])
    taken = files.take()
    assert (taken.now, taken.next_turn) == (("turn_timeout",), ("model", "command"))
    assert taken.restart == ("poll_interval_idle",)
    assert (place.config.poll_interval_idle, place.config.model, taken.policy.turn_timeout) == (60, "m", 9.0)
    desk.configure(max_retries=1)
    assert files.take().restart == ()


def test_nothing_has_changed_where_it_cannot_be_acted_on(desk: Desk) -> None:
    files = files_of(desk)
    files.take()
    place = files._place
    before = place.config
    for text in ("x = ", 'permission_mode = "all"', "max_retries = -1"):
        (desk.state / "config.toml").write_text(text)
        with pytest.raises(ConfigFault):
            files.take()
        assert place.config == before


def test_other_values_of_the_same_keys_are_another_state_and_no_other_notice(desk: Desk) -> None:
    files = files_of(desk)
    path = desk.state / "config.toml"
    whole = path.read_text()
    seen = []
    for mode in ("acceptEdits", "bypassPermissions"):
        path.write_text(whole.replace('"plan"', f'"{mode}"'))
        seen.append(files.take().trusted)
    assert [one.others for one in seen] == [("permission_mode",)] * 2
    assert len({one.digest for one in seen}) == 2
    assert len({one.subject for one in seen}) == 1
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigFault, match="more than"):
        files.take()


def test_a_key_that_is_gone_because_it_was_mistyped_is_named_with_its_line(desk: Desk) -> None:
    files, path = files_of(desk), desk.state / "config.toml"
    path.write_text(path.read_text().replace("permission_mode", "permision_mode"))
    trusted = files.take().trusted
    assert trusted.others == ("permission_mode",)
    assert "line 3" in trusted.mistyped
    assert "did you mean permission_mode?" in trusted.mistyped


def test_guards_are_taken_live(desk: Desk) -> None:
    place, lock = desk.place(), desk.place().lock()
    lock.acquire()
    try:
        place.prepare()
        place.trust.remember()
        files = ConfigFiles(place, place.trust.verdict)
        room = place.room(lock)
        settings = Settings(room, files)
        settings.take()
        desk.configure(guards={"turns_per_hour": 3}, people=["boss"])
        settings.take()
        assert (room.policy.guards.turns_per_hour, "boss" in room.policy.who.people) == (3, True)
    finally:
        lock.release()
