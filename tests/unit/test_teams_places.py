"""Where a team lies and where it works: two places, by whatever names one comes to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.team_folder import say, team_in

from agent_mailer.cli.team.making import init
from agent_mailer.cli.team.naming import name_of
from agent_mailer.cli.team.running import rm
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.teams.kept import keep
from agent_mailer.teams.place import directory_meant, last_team, remember_last, team_here
from agent_mailer.teams.plan import FILE, team_name


@pytest.fixture
def by_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where teams lie, by a link to where they really do."""
    (tmp_path / "disk" / "teams").mkdir(parents=True)
    (tmp_path / "teams").symlink_to(tmp_path / "disk" / "teams")
    monkeypatch.setenv("AMP_TEAMS_DIR", str(tmp_path / "teams"))
    return tmp_path / "teams"


@pytest.mark.parametrize("inside", ["team", "team/src"])
@pytest.mark.parametrize("written", ["as it is", "by the link"])
def test_a_project_in_the_teams_own_folder_is_not_deleted_with_it(by_link: Path, inside: str, written: str) -> None:
    folder = team_in(by_link)
    project = by_link / inside if written == "by the link" else (by_link / inside).resolve()
    project.mkdir(exist_ok=True)
    (project / "work.py").write_text("print(1)\n")
    say(folder, project=project)
    keep(folder, Disk())
    for way in (folder, folder.resolve()):
        with pytest.raises(UsageFault, match=r"the project .* lies in"):
            rm(directory=way, yes=True)
    assert (project / "work.py").exists()


def test_a_team_is_deleted_whole_and_its_project_stays_that_a_link_in_it_leads_to(by_link: Path) -> None:
    folder = team_in(by_link)
    (by_link / "project" / "work.py").write_text("print(1)\n")
    (folder / "project").symlink_to(by_link / "project")
    keep(folder, Disk())
    rm(directory=folder, yes=True)
    assert (folder.exists(), (by_link / "project" / "work.py").exists()) == (False, True)


@pytest.mark.parametrize("way", ["as it is", "by the link"])
def test_a_team_that_was_deleted_is_missed_by_nobody(
    by_link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    environ, home, shape = {"AMP_TEAMS_DIR": str(by_link)}, Path.home(), "solo-with-reviewer"
    for name in ("first", "other", "shop"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        init(name, local=True, runtime="command", command="cat", template=shape)
    for name, last in (("other", by_link / "shop"), ("shop", None)):
        rm(directory=by_link / name if way == "by the link" else (by_link / name).resolve(), yes=True)
        assert last_team(environ, home) == last
    # In the project of the one that was the last.
    with pytest.raises(ConfigFault, match="no team is the last one") as told:
        directory_meant("", None, environ, home)
    assert "amp list" in told.value.fix
    rm(directory=by_link / "first", yes=True)
    with pytest.raises(ConfigFault, match=r"there is no team$"):
        directory_meant("", None, environ, home)


@pytest.mark.parametrize("inside", ["shop", "shop/src"])
def test_no_new_team_is_made_in_the_folder_one_stands_in_or_above_it(
    by_link: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    (by_link / inside).mkdir(parents=True)
    monkeypatch.chdir(by_link / inside)
    with pytest.raises(UsageFault, match="is the project, or above it"):
        init("shop", local=True)
    assert [path.name for path in (by_link / "shop").iterdir()] in ([], ["src"])


@pytest.mark.parametrize("last", ["outer", "inner"])
def test_of_projects_one_within_the_other_the_nearest_to_where_one_stands_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    environ = {"AMP_TEAMS_DIR": str(tmp_path / "teams"), "AMP_STATE_PATH": str(tmp_path / "state.json")}
    (tmp_path / "work" / "shop" / "src").mkdir(parents=True)
    for name, project in (("outer", "work"), ("inner", "work/shop")):
        link = tmp_path / "teams" / name / "agents" / f"{name}_coder" / "project"
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / project)
        (tmp_path / "teams" / name / FILE).write_text(f"team: {name}\n")
    remember_last(last, tmp_path / "teams" / last, environ, tmp_path, Disk(), 0.0)
    for where, meant in (("work", "outer"), ("work/shop", "inner"), ("work/shop/src", "inner")):
        monkeypatch.chdir(tmp_path / where)
        assert team_here(environ, tmp_path) == tmp_path / "teams" / meant, where
    monkeypatch.chdir(tmp_path)
    assert team_here(environ, tmp_path) is None


def test_a_new_team_is_no_other_team_of_its_project_by_another_name(
    by_link: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = by_link.parent / "shop"
    project.mkdir()
    monkeypatch.chdir(project)
    for name, told in (("one", False), ("other", True)):
        where = by_link.resolve() / name
        init(directory=where, local=True, runtime="command", command="cat", template="solo-with-reviewer")
        assert ("one works on this folder, too" in capsys.readouterr().err) is told


def test_of_two_teams_of_one_project_the_last_is_meant_by_whatever_name_it_was_last_come_to(
    by_link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"AMP_TEAMS_DIR": str(by_link), "AMP_STATE_PATH": str(by_link / "state.json")}
    project = by_link / "project"
    project.mkdir()
    for name in ("one", "other"):
        link = by_link / name / "agents" / f"{name}_coder" / "project"
        link.parent.mkdir(parents=True)
        link.symlink_to(project)
        (by_link / name / FILE).write_text(f"team: {name}\n")
    monkeypatch.chdir(project)
    with pytest.raises(UsageFault, match="several teams work on"):
        team_here(environ, by_link)
    for last in ("one", "other"):
        for way in (by_link / last, (by_link / last).resolve()):
            remember_last(last, way, environ, by_link, Disk(), 0.0)
            meant = team_here(environ, by_link)
            assert meant is not None
            assert meant.samefile(by_link / last)


@pytest.mark.parametrize(
    "called", ["shop", "a" * 18, "a" * 25, "a" * 31, "a" * 60, f"{'a' * 18}-{'b' * 30}", "Straße" * 6, "my-claude-code"]
)
def test_each_program_has_a_team_of_its_own_in_a_folder_however_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    (tmp_path / called).mkdir()
    monkeypatch.chdir(tmp_path / called)
    for given in ("", called):
        names = [name_of(given, None, f"-{program}") for program in ("claude-code", "codex")]
        assert [name.endswith(end) for name, end in zip(names, ("-claude-code", "-codex"), strict=True)] == [True, True]
        # What is made of the name later is the name.
        assert [team_name(name) for name in names] == names
