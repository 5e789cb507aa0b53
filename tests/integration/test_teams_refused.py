"""`amp start`, `restart`, `up` that are refused: nothing was ended for it, and nothing is begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypedDict

import pytest
import yaml
from tests.broker_process import broker as running_server
from tests.sizes import LONG
from tests.team_desk import ANSWERS, TeamDesk
from tests.typed import Typed

from agent_mailer.cli.team.making import init
from agent_mailer.cli.team.own_broker import standing
from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, UnavailableFault, UsageFault
from agent_mailer.locks import FileLock
from agent_mailer.service.folder import Units, units_folder
from agent_mailer.service.unit import Instance
from agent_mailer.teams.embedded import folder_of
from agent_mailer.teams.kept import changing, keep
from agent_mailer.teams.plan import FILE
from agent_mailer.teams.stopped import starts_again

Way = Callable[[TeamDesk, str], Typed]


class Flags(TypedDict, total=False):
    """What is typed behind `amp init`."""

    local: bool
    runtime: str
    command: str
    template: str


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


def test_the_line_that_made_a_team_is_taken_again_and_one_that_says_otherwise_is_refused(
    team_desk: TeamDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(team_desk.project)
    made = Flags(local=True, runtime="command", command=ANSWERS, template="solo-with-reviewer")
    init(**made)
    before = (team_desk.team / FILE).read_bytes()
    init(**made)
    init(command=ANSWERS.replace(" -c ", "  -c "))
    for other, said in (
        (Flags(command="wc"), "says otherwise: --command$"),
        (Flags(template="nightly-maintenance"), "says otherwise: --template$"),
        (Flags(command="cat '"), "--command: No closing quotation"),
        (Flags(template="solo"), "--template.*solo-with-reviewer"),
    ):
        with pytest.raises(UsageFault, match=said):
            init(**(made | other))
    assert (team_desk.team / FILE).read_bytes() == before


def test_what_is_typed_is_held_against_each_agent_as_the_teams_file_has_it_now(
    team_desk: TeamDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(team_desk.project)
    made = Flags(local=True, command=ANSWERS, template="solo-with-reviewer")
    init(**(made | Flags(runtime="command")))
    file = team_desk.team / FILE
    before = yaml.safe_load(file.read_text())
    coder, reviewer = before["agents"]
    for changes, flags in (
        ({"agents": [coder, reviewer | {"command": ["wc"]}]}, "--command"),
        ({"agents": [coder, reviewer | {"role": "tester"}]}, "--template"),
        ({"agents": [coder]}, "--template"),
        ({"agent_runtime": "codex"}, "--command"),
    ):
        file.write_text(yaml.safe_dump(before | changes))
        with pytest.raises(UsageFault, match=f"says otherwise: {flags}$"):
            init(**made)
    # The order, what else an agent has, and a command of one whose program is another say nothing else.
    file.write_text(yaml.safe_dump(before | {"agents": [reviewer | {"runtime": "codex", "command": ["wc"]}, coder]}))
    init(**made)


@contextmanager
def watched_by_a_stranger(desk: TeamDesk) -> Iterator[None]:
    """As by another client, which says nowhere who it is."""
    lock = FileLock(desk.agent("reviewer").folder.path / ".lock")
    lock.acquire(0)
    yield
    lock.release()


def test_a_broker_that_was_begun_for_what_is_refused_is_ended(team_desk: TeamDesk) -> None:
    done = team_desk.amp("up", "--broker", "embedded", "--runtime", "command")
    assert (done.status, "belong together" in done.err, standing(team_desk.team)) == (2, True, None), done
    team_desk.made("--broker", "embedded")
    with watched_by_a_stranger(team_desk):
        done = team_desk.amp("up", "--detach")
    assert (done.status, "another program watches" in done.err) == (75, True), done
    assert (standing(team_desk.team), team_desk.watching()) == (None, {})
    # Who is refused at once is told so at once: who is at the team meanwhile looks after its broker himself.
    with changing(team_desk.team, Disk()):
        done = team_desk.amp("up", "--template", "four-roles")
    assert (done.status, "says otherwise" in done.err) == (2, True), done


def test_what_is_refused_for_its_place_leaves_that_as_it_was_and_somebodys_own_broker_there(
    team_desk: TeamDesk,
) -> None:
    data = team_desk.project / "broker"
    with running_server(data) as server:
        before = {path.name for path in team_desk.project.iterdir()}
        done = team_desk.amp("up", "./", "--local")
        assert (done.status, "has a folder of its own" in done.err) == (2, True), done
        assert {path.name for path in team_desk.project.iterdir()} == before
        broker = standing(team_desk.project)
        assert broker is not None
        assert broker.url == server.url


def test_nobody_else_is_at_a_team_while_the_broker_begins_that_it_is_made_with(
    team_desk: TeamDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another who is refused just then would end it."""

    def begins(directory: Path) -> NoReturn:
        with pytest.raises(BusyFault), changing(directory, Disk(), 0.0):
            pass
        raise UnavailableFault("no_broker", "so far, and no further", "")

    monkeypatch.setattr("agent_mailer.cli.team.own_broker.begin", begins)
    monkeypatch.chdir(team_desk.project)
    with pytest.raises(UnavailableFault, match="so far"):
        init(broker_url="embedded", runtime="command", command="cat")
    team_desk.made()
    with changed(team_desk.team / FILE, "broker_url: ''", "broker_url: embedded"):
        keep(team_desk.team, Disk())
        with pytest.raises(UnavailableFault, match="so far"):
            init()


@LONG
def test_the_broker_of_a_team_that_runs_is_left_to_it(team_desk: TeamDesk) -> None:
    team_desk.made("--broker", "embedded", "--detach", verb="up")
    broker = standing(team_desk.team)
    assert broker is not None
    for refused in (("up", "--template", "four-roles"), ("start", "--systemd")):
        done = team_desk.amp(*refused)
        assert (done.status, standing(team_desk.team), len(team_desk.watching())) == (2, broker, 2), done
    assert team_desk.amp("stop", "--now").status == 0
    assert standing(team_desk.team) is None
