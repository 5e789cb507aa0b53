"""Which workdirs a user has: remembered one file each, forgotten when they are gone."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest
from tests.powers import no_powers

from agent_mailer.disk import Disk
from agent_mailer.state.workdirs import Workdirs, known_workdirs, remember, user_state


def workdir(base: Path, name: str) -> Path:
    made = base / name
    (made / ".agent-mailer").mkdir(parents=True)
    return made


@pytest.fixture
def known(tmp_path: Path) -> Workdirs:
    return Workdirs(tmp_path / "known", Disk())


@pytest.mark.parametrize("name", ["coder", "a b\nc", "kürbis", os.fsdecode(b"\xff\xfe"), "x" * 200])
def test_a_workdir_is_known_whatever_it_is_called(tmp_path: Path, known: Workdirs, name: str) -> None:
    folder = workdir(tmp_path, name)
    known.remember(folder)
    known.remember(folder)
    assert known.all() == [folder]
    assert len(list((tmp_path / "known").iterdir())) == 1


def test_what_is_gone_is_forgotten_and_what_is_there_stays(tmp_path: Path, known: Workdirs) -> None:
    assert known.all() == []
    one, two = workdir(tmp_path, "one"), workdir(tmp_path, "two")
    known.remember(one)
    known.remember(two)
    two.rename(tmp_path / "moved")
    assert known.all() == [one]
    assert len(list((tmp_path / "known").iterdir())) == 1


def test_a_folder_that_cannot_be_looked_into_is_not_forgotten(tmp_path: Path, known: Workdirs) -> None:
    folder = workdir(tmp_path / "locked", "one")
    known.remember(folder)
    (tmp_path / "locked").chmod(0)
    try:
        with no_powers():
            assert known.all() == []
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert known.all() == [folder]


def test_one_workdir_under_two_names_is_shown_once(tmp_path: Path, known: Workdirs) -> None:
    folder = workdir(tmp_path, "real")
    (tmp_path / "link").symlink_to(folder)
    known.remember(folder)
    known.remember(tmp_path / "link")
    assert len(known.all()) == 1


def test_files_that_are_none_of_ours_end_nothing(tmp_path: Path, known: Workdirs) -> None:
    folder = workdir(tmp_path, "one")
    known.remember(folder)
    place = tmp_path / "known"
    (place / "empty").write_bytes(b"")
    (place / "garbage").write_bytes(b"\0\xff" * 5000)
    (place / "relative").write_text("one\n")
    (place / "another").write_text(f"{folder}\n")
    (place / "folder").mkdir()
    os.mkfifo(place / "fifo")
    assert known.all() == [folder]
    assert len([path for path in place.iterdir() if path.is_file()]) == 1


def test_where_it_cannot_be_written_nothing_else_suffers(tmp_path: Path, home: Path) -> None:
    folder = workdir(tmp_path, "one")
    state = home / ".local" / "state"
    (state / "agent-mailer").write_text("a file in the way")
    remember(folder)
    assert known_workdirs(Disk()).all() == []
    (state / "agent-mailer").unlink()
    remember(folder)
    assert known_workdirs(Disk()).all() == [folder]


@pytest.mark.parametrize("said", [None, "", "relative", "/srv/state/"])
@pytest.mark.parametrize("home", [None, "", "relative", "/srv/home", "/srv/home//"])
def test_the_state_of_the_user_is_where_platformdirs_says(
    monkeypatch: pytest.MonkeyPatch, said: str | None, home: str | None
) -> None:
    for name, value in (("XDG_STATE_HOME", said), ("HOME", home)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert user_state() == platformdirs.user_state_path("agent-mailer")
