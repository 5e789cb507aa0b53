"""Making and starting a team: what a person has said of it, and where its mail is to be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.team_folder import team_in

from agent_mailer.assemble import Workplace
from agent_mailer.cli.team.making import init
from agent_mailer.cli.team.running import start
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.state.workdirs import known_workdirs
from agent_mailer.teams.stopped import forget_stopped, keep_stopped, starts_again


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the team of the project one stands in will be."""
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    monkeypatch.setenv("AMP_TEAMS_DIR", str(tmp_path / "teams"))
    return tmp_path / "teams" / "shop"


def made(local: bool = True) -> None:
    init(local=local, runtime="command", command="cat", template="solo-with-reviewer")


def test_a_team_that_is_to_run_is_none_that_was_stopped_though_its_watcher_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = team_in(tmp_path)
    init(directory=folder)
    keep_stopped(folder, Disk())
    assert starts_again(folder / "agents" / "shop_coder") == f"amp start --dir {folder}"
    program = tmp_path / "bin" / "agent-mailer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'error: a folder is not there' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    with pytest.raises(MailerError, match="ended: error: a folder is not there"):
        start(directory=folder, detach=True)
    assert starts_again(folder / "agents" / "shop_coder") == "", "who does not watch now is missed"


def test_what_is_taken_over_into_a_team_that_runs_stops_it_for_nobody(team: Path) -> None:
    made()
    forget_stopped(team, Disk())
    file = team / "team.yaml"
    file.write_text(file.read_text().replace("role: coder", "role: coder\n  max_retries: 4"))
    init()
    assert "max_retries = 4" in (team / "agents" / "shop_coder" / ".agent-mailer" / "config.toml").read_text()
    assert starts_again(team / "agents" / "shop_coder") == ""


def test_a_team_whose_making_was_broken_off_has_been_started_by_nobody(team: Path) -> None:
    (team / "start-team.sh").mkdir(parents=True)
    with pytest.raises(OSError, match="not a regular file"):
        made()
    (team / "start-team.sh").rmdir()
    init()
    assert starts_again(team / "agents" / "shop_coder") == f"amp start --dir {team}"


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("name: shop_coder", "name: shop_writer"),
        ("name: shop_coder\n  role: coder", "name: shop_writer\n  role: writer"),
    ],
    ids=["its name", "its name and its role"],
)
def test_who_is_called_otherwise_in_the_teams_file_is_there_no_more_by_the_old_name(
    team: Path, capsys: pytest.CaptureFixture[str], was: str, is_now: str
) -> None:
    made()
    file = team / "team.yaml"
    file.write_text(file.read_text().replace(was, is_now))
    capsys.readouterr()
    init()
    assert "shop_coder is in the team no more" in capsys.readouterr().out
    names = {path.name for path in known_workdirs(Disk()).all()}
    assert names == {"shop_writer", "shop_reviewer"}, "nobody is missed by a name that is in no list of the team"
    assert (team / "agents" / "shop_coder").is_dir()


def test_who_has_left_the_team_is_dismissed_wherever_its_file_was_being_taken_over(team: Path) -> None:
    made()
    file, next_to_it = team / "team.yaml", team / ".amp" / "at"
    file.write_text(file.read_text().replace("name: shop_coder", "name: shop_writer"))
    next_to_it.unlink()
    next_to_it.mkdir()
    with pytest.raises(OSError, match="not a file of ours"):
        init()
    next_to_it.rmdir()
    init()
    assert {path.name for path in known_workdirs(Disk()).all()} == {"shop_writer", "shop_reviewer"}


def test_what_an_agent_has_written_beside_the_texts_of_its_team_waits_for_a_persons_yes(team: Path) -> None:
    init(local=True, runtime="command", command="cat", template="nightly-maintenance")
    place = Workplace(team / "agents" / "shop_maintainer")
    assert not place.trust.reload().changed
    place.disk.make_directory(place.folder.templates)
    (place.folder.templates / "fresh.md").write_text("Do what I say")
    config = place.folder.config
    config.write_text(f'claude_command = "./mine"\n{config.read_text()}')
    assert place.trust.reload().changed == ("claude_command", "templates/fresh.md")
    file = team / "team.yaml"
    file.write_text(file.read_text().replace("Update the dependencies", "Renew the dependencies"))
    init()
    assert (place.workdir / "schedules" / "nightly.md").read_text().startswith("Renew the dependencies")
    assert place.trust.reload().changed == ("claude_command", "templates/fresh.md"), "of the team's texts alone"


def test_a_broker_that_the_environment_names_is_where_a_new_teams_mail_is_to_be(
    team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMP_BROKER_URL", "http://127.0.0.1:1")
    with pytest.raises(UsageFault, match="nobody to log in"):
        made(local=False)
    assert not team.exists(), "it is not made without it"
    made(local=True)
    assert "broker_url: ''" in (team / "team.yaml").read_text(), "unless a folder was said"
