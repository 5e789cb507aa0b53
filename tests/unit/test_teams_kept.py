"""What counts of a team: its file as it was last taken over, one `amp` at a time, and whether a person stopped it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.team_folder import say, team_in

from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, ConfigFault
from agent_mailer.teams.kept import changing, has_team, keep, moved_from, standing
from agent_mailer.teams.plan import FILE
from agent_mailer.teams.stopped import forget_stopped, keep_stopped, starts_again


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return team_in(tmp_path)


def prompt(folder: Path) -> str:
    return standing(folder).team.members[0].system_prompt


def test_a_file_counts_when_it_was_taken_over_and_not_before(folder: Path) -> None:
    assert (prompt(folder), standing(folder).changed) == ("You code.", False), "nothing was taken over yet"
    keep(folder, Disk())
    say(folder, "You push.")
    assert (prompt(folder), standing(folder).changed) == ("You code.", True)
    keep(folder, Disk())
    assert (prompt(folder), standing(folder).changed) == ("You push.", False)
    assert (folder / ".amp" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("fault", ["broken", "gone", "no project"])
def test_what_is_wrong_with_the_file_changes_nothing_and_says_the_way_back(folder: Path, fault: str) -> None:
    keep(folder, Disk())
    say(folder, "You push.")
    if fault == "broken":
        (folder / FILE).write_text("team: [")
    elif fault == "gone":
        (folder / FILE).unlink()
    else:
        (folder.parent / "project").rename(folder.parent / "elsewhere")
    found = standing(folder)
    assert found.team.members[0].system_prompt == "You code."
    assert found.fault is not None
    back = f"cp {folder}/.amp/team.yaml {folder}/team.yaml"
    assert found.fault.fix.endswith(back)
    assert (found.fault.code == "file_gone") == (fault == "gone")
    assert has_team(folder)
    (folder / ".amp" / FILE).unlink()
    if fault == "no project":
        assert standing(folder).fault is not None
    else:
        with pytest.raises(ConfigFault):
            standing(folder)
    assert has_team(folder) == (fault != "gone")


def test_one_at_a_time_makes_starts_or_stops_it(folder: Path) -> None:
    with changing(folder, Disk()):
        with pytest.raises(BusyFault, match="another amp"), changing(folder, Disk(), 0.0):
            raise AssertionError("two at once")
        assert (folder / ".amp" / "lock").exists()
    with changing(folder, Disk(), 0.0):
        pass


def test_a_folder_that_was_moved_says_where_its_agents_look_for_mail(folder: Path) -> None:
    keep(folder, Disk())
    team = standing(folder).team
    assert moved_from(folder, team) is None
    target = folder.rename(folder.parent / "moved")
    assert moved_from(target, team) == folder
    (folder.parent / "link").symlink_to(target)
    keep(folder.parent / "link", Disk())
    assert moved_from(target, team) is None, "by another name it is the same folder"
    # Mail that lies elsewhere did not move with it.
    assert moved_from(target, msgspec.structs.replace(team, root=folder.parent / "mail")) is None
    assert moved_from(target, msgspec.structs.replace(team, broker_url="https://broker.example")) is None


def test_who_has_stopped_it_misses_nobody_there(folder: Path) -> None:
    workdir = folder / "agents" / "shop_coder"
    keep_stopped(folder, Disk())
    assert starts_again(workdir) == "", "nothing was taken over: it is no team yet"
    keep(folder, Disk())
    keep_stopped(folder, Disk())
    assert starts_again(workdir) == f"amp start --dir {folder}"
    assert starts_again(folder / "elsewhere" / "shop_coder") == ""
    forget_stopped(folder, Disk())
    forget_stopped(folder, Disk())
    assert starts_again(workdir) == ""
    assert os.listdir(folder / ".amp") != []
