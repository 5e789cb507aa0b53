"""`amp` where something is in the way: an end that is under way, two at once, files that are broken or gone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.desk import until
from tests.sizes import LONG
from tests.team_desk import TeamDesk, team_desk

from agent_mailer.assemble import Workplace
from agent_mailer.events import EventName
from agent_mailer.process.handle import is_alive, send

AMP = str(Path(sys.executable).parent / "amp")
SLOW = "sh -c 'cat >/dev/null; while [ ! -e {go} ]; do sleep 0.05; done; echo it is done'"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeamDesk]:
    with team_desk(tmp_path, monkeypatch) as found:
        yield found


def test_started_while_its_watchers_end_it_runs_and_its_turn_goes_on(desk: TeamDesk) -> None:
    go = desk.project / "go"
    desk.up(command=SLOW.format(go=go))
    desk.amp("send", "coder", "work")
    until(lambda: desk.log("coder", EventName.TURN_STARTED), "its turn")
    before = desk.watching()
    for process in before.values():
        # As when the terminal is gone: whoever has a turn gives it time, and ends then.
        send(process, signal.SIGHUP)
    again = desk.amp("start", "--detach")
    assert again.status == 0, again
    after = desk.watching()
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before), again
    go.touch()
    until(lambda: desk.log("coder", EventName.TURN_SETTLED), "its end")
    assert [len(desk.log("coder", one)) for one in (EventName.TURN_STARTED, EventName.TURN_ADOPTED)] == [1, 1]
    assert [row["outcome"] for row in desk.log("coder", EventName.TURN_ENDED)] == ["done"]
    assert desk.watching() == after


def test_a_broken_file_leaves_what_was_last_taken_over_and_says_so(desk: TeamDesk) -> None:
    desk.up()
    file = desk.team / "team.yaml"
    good = file.read_text()
    file.write_text("team: shop\nagents:\n\t- role: coder\n")
    for words in (("status",), ("ask", "do it", "--wait", "60"), ("stop",), ("start", "--detach")):
        done = desk.amp(*words)
        assert (done.status, "line 3" in done.err, "never by tabs" in done.err) == (0, True, True), done
        assert "what was last taken over of it counts" in done.err
    assert len(desk.watching()) == 2
    assert (desk.amp("up", "--detach").status, len(desk.watching())) == (78, 2)
    # What is only changed is told, too, until it is taken over.
    file.write_text(good + "  max_retries: 4\n")
    assert f"amp up --dir {desk.team}" in desk.amp("status").err
    assert desk.amp("up", "--detach").status == 0
    assert desk.amp("status").err == ""


@LONG
def test_who_leaves_the_team_is_watched_no_more_and_keeps_its_folder(desk: TeamDesk) -> None:
    desk.up()
    file = desk.team / "team.yaml"
    shape = yaml.safe_load(file.read_text())
    shape["agents"] = [one for one in shape["agents"] if one["role"] != "reviewer"]
    file.write_text(yaml.safe_dump(shape))
    assert desk.amp("up", "--detach").status == 0
    until(lambda: set(desk.watching()) == {"shop_coder"}, "the reviewer's watcher has ended")
    assert desk.agent("reviewer").folder.path.is_dir()
    assert "- reviewer:" not in (desk.agent("coder").workdir / "AGENT.md").read_text()


@LONG
def test_a_folder_that_is_moved_goes_on_where_it_is(desk: TeamDesk) -> None:
    desk.up()
    desk.amp("ask", "do it", "--wait", "60")
    moved = desk.team.rename(desk.teams / "elsewhere")
    lost = desk.amp("status")
    assert (lost.status, "is not there any more" in lost.err) == (78, True), lost
    again = desk.amp("up", "--dir", moved, "--detach")
    assert again.status == 0, again
    asked = desk.amp("ask", "once more", "--wait", "60")
    assert (asked.status, asked.out.strip().splitlines()[-1]) == (0, "it is done"), asked
    assert desk.watching().keys() == {"shop_coder", "shop_reviewer"}


@LONG
def test_an_agent_whose_folder_is_deleted_is_told_and_made_again(desk: TeamDesk) -> None:
    desk.up()
    watcher = desk.watching()["shop_reviewer"]
    shutil.rmtree(desk.agent("reviewer").workdir)
    until(lambda: not is_alive(watcher), "its watcher has ended")
    shown = desk.amp("status")
    assert "no longer there: shop_reviewer" in shown.err, shown
    assert desk.amp("ask", "do it", "--wait", "60").status == 0, "the others go on"
    refused = desk.amp("start", "--detach")
    assert (refused.status, f"amp up --dir {desk.team}" in refused.err) == (1, True), refused
    again = desk.amp("up", "--detach")
    assert (again.status, "reviewer: set up" in again.out) == (0, True), again
    assert desk.amp("send", "reviewer", "look", "--wait", "60").status == 0
    shutil.rmtree(desk.agent("reviewer").workdir)
    assert desk.amp("stop").status == 0
    assert not desk.watching()


@LONG
def test_two_that_start_it_at_once_start_it_once(desk: TeamDesk) -> None:
    desk.made()
    words = [AMP, "start", "--detach"]
    both = [subprocess.Popen(words, cwd=desk.project, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum(text.count("watches already") for text in said) == 2, said
    assert len(desk.watching()) == 2
    # Made by two at once, it is one team.
    words[1] = "up"
    both = [subprocess.Popen(words, cwd=desk.project, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert desk.amp("ask", "do it", "--wait", "60").status == 0


@LONG
def test_projects_of_one_name_and_teams_of_one_project_are_kept_apart(desk: TeamDesk, tmp_path: Path) -> None:
    desk.made()
    other = tmp_path / "elsewhere" / "shop"
    other.mkdir(parents=True)
    refused = desk.amp("up", "--detach", cwd=other)
    assert (refused.status, str(desk.project) in refused.err, "amp up NAME" in refused.err) == (2, True, True), refused
    # A second team of one project, with blanks and what no name can hold.
    desk.made("Zweites Büro", "--local", "--detach", verb="up")
    assert {row["team"] for row in desk.amp("list", "--json").json} == {"shop", "zweites-b-ro"}
    first = desk.agent("coder").project_dir()
    assert first == Workplace(desk.teams / "zweites-b-ro" / "agents" / "zweites-b-ro_coder").project_dir()
    asked = desk.amp("ask", "--team", "zweites-b-ro", "do it", "--wait", "60")
    assert asked.status == 0, asked
    assert set(desk.watching()) == {"zweites-b-ro_coder", "zweites-b-ro_reviewer"}
    nothing = desk.amp("init", "日本", "--local")
    assert (nothing.status, "nothing of it is a-z or 0-9" in nothing.err) == (2, True), nothing
