"""`amp start`, `restart`, `up` that are refused: nothing was ended for it, and nothing is begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.team_desk import TeamDesk
from tests.typed import Typed

from agent_mailer.cli.team.own_broker import standing
from agent_mailer.disk import Disk
from agent_mailer.service.folder import Units, units_folder
from agent_mailer.service.unit import Instance
from agent_mailer.teams.embedded import folder_of
from agent_mailer.teams.kept import keep
from agent_mailer.teams.plan import FILE
from agent_mailer.teams.stopped import starts_again

Way = Callable[[TeamDesk, str], Typed]


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    yield
    path.write_text(before)


def as_services_with_a_broker_of_its_own(desk: TeamDesk, verb: str) -> Typed:
    """It ends with the team, and services outlive both."""
    with changed(desk.team / FILE, "broker_url: ''", "broker_url: embedded"):
        keep(desk.team, Disk())
        done = desk.amp(verb, "--systemd")
    keep(desk.team, Disk())
    assert (done.status, "services outlive that" in done.err) == (2, True), done
    return done


def as_services_without_systemd(desk: TeamDesk, verb: str) -> Typed:
    done = desk.amp(verb, "--systemd", env={"PATH": "/nowhere"})
    assert (done.status, "no systemd" in done.err) == (69, True), done
    return done


def as_a_service_that_is_anothers(desk: TeamDesk, verb: str) -> Typed:
    """The last of the team's: what is before it is not begun either."""
    units = Units(units_folder(os.environ), Disk())
    units.write(Instance("shop_reviewer", desk.project, Path("/opt/agent-mailer"), ("/bin",)))
    program = desk.project.parent / "bin" / "systemctl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\necho "$*" >>{program}.told; echo Version=252\n')
    program.chmod(0o755)
    done = desk.amp(verb, "--systemd", env={"PATH": f"{program.parent}:/usr/bin:/bin"})
    assert (done.status, f"is that of {desk.project}" in done.err) == (2, True), done
    asked = {line.split()[1] for line in Path(f"{program}.told").read_text().splitlines()}
    assert asked == {"show"}, "systemd was asked, and told nothing"
    return done


WAYS = (as_services_with_a_broker_of_its_own, as_services_without_systemd, as_a_service_that_is_anothers)


def test_what_cannot_be_started_again_is_not_stopped(team_desk: TeamDesk) -> None:
    team_desk.up()
    watching = team_desk.watching()
    assert len(watching) == 2
    for way in WAYS:
        done = way(team_desk, "restart")
        assert (done.out, team_desk.watching()) == ("", watching), way
    # A watcher goes on with the values that it began with; a new one would not begin.
    with changed(team_desk.agent("reviewer").folder.config, "runtime", "max_retries = 'many'\nruntime"):
        done = team_desk.amp("restart")
    assert (done.out, "shop_reviewer" in done.err, team_desk.watching()) == ("", True, watching), done


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_team_whose_start_is_refused_is_one_that_was_stopped(team_desk: TeamDesk, way: Way) -> None:
    team_desk.made()
    again = [starts_again(team_desk.agent(role).workdir) for role in ("coder", "reviewer")]
    assert again == [f"amp start --dir {team_desk.team}"] * 2
    assert way(team_desk, "start").out == ""
    assert [starts_again(team_desk.agent(role).workdir) for role in ("coder", "reviewer")] == again
    assert team_desk.watching() == {}


def test_a_team_that_would_be_refused_is_not_made_with_a_broker_first(team_desk: TeamDesk) -> None:
    shape = ("--runtime", "command", "--command", "cat", "--broker", "embedded")
    done = team_desk.amp("up", "--systemd", *shape)
    assert (done.status, "services outlive that" in done.err) == (2, True), done
    assert not team_desk.team.exists()
    # Nor is one begun for a team that is there.
    team_desk.made()
    done = as_services_with_a_broker_of_its_own(team_desk, "up")
    assert (folder_of(team_desk.team).exists(), standing(team_desk.team)) == (False, None), done
