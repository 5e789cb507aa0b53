"""`amp` where something is in the way: an end that is under way, two at once, files that are broken or gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.desk import until
from tests.sizes import LONG
from tests.team_desk import TeamDesk
from tests.terminal import terminal
from tests.typed import type_in

from agent_mailer.assemble import Workplace
from agent_mailer.events import EventName
from agent_mailer.process.handle import is_alive, send
from agent_mailer.state.lock import holder_of
from agent_mailer.teams.stopped import starts_again

AMP = str(Path(sys.executable).parent / "amp")
SLOW = "sh -c 'cat >/dev/null; while [ ! -e {go} ]; do sleep 0.05; done; echo it is done'"


def test_started_while_its_watchers_end_it_runs_and_its_turn_goes_on(team_desk: TeamDesk) -> None:
    go = team_desk.project / "go"
    team_desk.up(command=SLOW.format(go=go))
    team_desk.amp("send", "coder", "work")
    until(lambda: team_desk.log("coder", EventName.TURN_STARTED), "its turn")
    before = team_desk.watching()
    for process in before.values():
        # As when the terminal is gone: whoever has a turn gives it time, and ends then.
        send(process, signal.SIGHUP)
    again = team_desk.amp("start", "--detach")
    assert again.status == 0, again
    after = team_desk.watching()
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before), again
    go.touch()
    until(lambda: team_desk.log("coder", EventName.TURN_SETTLED), "its end")
    assert [len(team_desk.log("coder", one)) for one in (EventName.TURN_STARTED, EventName.TURN_ADOPTED)] == [1, 1]
    assert [row["outcome"] for row in team_desk.log("coder", EventName.TURN_ENDED)] == ["done"]
    assert team_desk.watching() == after


def test_a_broken_file_leaves_what_was_last_taken_over_and_says_so(team_desk: TeamDesk) -> None:
    team_desk.up()
    file = team_desk.team / "team.yaml"
    good = file.read_text()
    file.write_text("team: shop\nagents:\n\t- role: coder\n")
    for words in (("status",), ("ask", "do it", "--wait", "60"), ("stop",), ("start", "--detach")):
        done = team_desk.amp(*words)
        assert (done.status, "line 3" in done.err, "never by tabs" in done.err) == (0, True, True), done
        assert "what was last taken over of it counts" in done.err
    assert len(team_desk.watching()) == 2
    assert (team_desk.amp("up", "--detach").status, len(team_desk.watching())) == (78, 2)
    # What is only changed is told, too, until it is taken over.
    file.write_text(good + "  max_retries: 4\n")
    assert f"amp up --dir {team_desk.team}" in team_desk.amp("status").err
    assert team_desk.amp("init").status == 0
    assert team_desk.amp("status").err == ""
    assert starts_again(team_desk.agent("coder").workdir) == "", "nobody has stopped it"


@LONG
def test_who_leaves_the_team_is_watched_no_more_and_keeps_its_folder(team_desk: TeamDesk) -> None:
    team_desk.up()
    file = team_desk.team / "team.yaml"
    shape = yaml.safe_load(file.read_text())
    shape["agents"] = [one for one in shape["agents"] if one["role"] != "reviewer"]
    file.write_text(yaml.safe_dump(shape))
    assert team_desk.amp("up", "--detach").status == 0
    until(lambda: set(team_desk.watching()) == {"shop_coder"}, "the reviewer's watcher has ended")
    assert team_desk.agent("reviewer").folder.path.is_dir()
    everybody = type_in(team_desk.team, "status", "--all", "--json").json["workdirs"]
    assert [Path(one["workdir"]).name for one in everybody] == ["shop_coder"], "nobody is missed who has left"
    assert "- reviewer:" not in (team_desk.agent("coder").workdir / "AGENT.md").read_text()


@LONG
def test_a_folder_that_is_moved_goes_on_where_it_is(team_desk: TeamDesk) -> None:
    team_desk.up()
    team_desk.amp("ask", "do it", "--wait", "60")
    moved = team_desk.team.rename(team_desk.teams / "elsewhere")
    mends = f"amp up --dir {moved}"
    named = team_desk.amp("status", "shop")
    assert (named.status, mends in named.err) == (78, True), named
    lost = team_desk.amp("status", cwd=team_desk.teams)
    assert (lost.status, "is not there any more" in lost.err, mends in lost.err) == (78, True, True), lost
    for cwd in (moved, team_desk.project):
        there = team_desk.amp("status", cwd=cwd)
        assert (f"the team's folder was {team_desk.team}" in there.err, mends in there.err) == (True, True), there
    refused = team_desk.amp("start", "--dir", moved, "--detach")
    assert (refused.status, mends in refused.err) == (78, True), refused
    again = team_desk.amp("up", "--dir", moved, "--detach")
    assert again.status == 0, again
    asked = team_desk.amp("ask", "once more", "--wait", "60")
    assert (asked.status, asked.out.strip().splitlines()[-1]) == (0, "it is done"), asked
    assert team_desk.watching().keys() == {"shop_coder", "shop_reviewer"}
    assert team_desk.amp("status", cwd=moved).err == ""


def test_a_team_made_anywhere_is_listed_and_known_to_its_project(team_desk: TeamDesk, tmp_path: Path) -> None:
    crew = tmp_path / "far away" / "crew"
    team_desk.made(crew)
    other = tmp_path / "other"
    other.mkdir()
    assert team_desk.amp("init", "second", "--local", cwd=other).status == 0, "it is the last one now"
    rows = {row["team"]: row["directory"] for row in team_desk.amp("list", "--json").json}
    assert rows.keys() == {"crew", "second"}
    assert rows["crew"] == str(crew)
    assert "crew" in team_desk.amp("init", "third", "--local").err, "who is told that it works here, too"


@LONG
def test_a_file_that_is_gone_leaves_the_team_known_and_is_written_back(team_desk: TeamDesk) -> None:
    team_desk.up()
    file = team_desk.team / "team.yaml"
    good = file.read_bytes()
    file.rename(team_desk.project / "team.yaml.away")
    back = f"cp {team_desk.team / '.amp' / 'team.yaml'} {file}"
    before = team_desk.watching()
    # Found by name, by the project, by its own folder; and no second team is made.
    for words, cwd in (
        (("status", "shop"), team_desk.teams),
        (("status",), team_desk.project),
        (("status",), team_desk.team),
    ):
        shown = team_desk.amp(*words, cwd=cwd)
        assert (shown.status, back in shown.err, "shop_coder" in shown.out) == (0, True, True), shown
    for more in ((), ("shop", "--local")):
        again = team_desk.amp("up", *more, "--detach")
        assert again.status == 78, again
        assert "runs: 2 of its 2 agents are watched" in again.err
        assert back in again.err
    listed = team_desk.amp("list")
    assert ("2 of 2" in listed.out, back in listed.err) == (True, True), listed
    [row] = team_desk.amp("list", "--json").json
    assert (row["watched"], row["fix"]) == (2, back)
    assert team_desk.watching() == before
    shutil.copy(team_desk.team / ".amp" / "team.yaml", file)
    assert file.read_bytes() == good
    assert team_desk.amp("up", "--detach").err == ""
    # An empty one is told with its line, by the list as well.
    file.write_text("")
    listed = team_desk.amp("list")
    assert (f"{file}: line 1: it is empty" in listed.err, back in listed.err) == (True, True), listed
    file.unlink()
    assert team_desk.amp("stop").status == 0
    assert not team_desk.watching()
    # Without what was kept, too, nothing is made over agents that are watched.
    file.write_bytes(good)
    assert team_desk.amp("start", "--detach").status == 0
    file.unlink()
    (team_desk.team / ".amp" / "team.yaml").unlink()
    lost = team_desk.amp("up", "--local", "--detach")
    assert lost.status == 75, lost
    assert all(str(process.pid) in lost.err for process in team_desk.watching().values())


def test_the_team_of_the_project_one_stands_in_is_meant(team_desk: TeamDesk, tmp_path: Path) -> None:
    for name in ("", "   "):
        blank = team_desk.amp("init", name, "--local")
        assert (blank.status, "is no name of a team" in blank.err) == (2, True), blank
    for name in (".", "..", "/", "./", "a/.."):
        no_name = team_desk.amp("init", name, "--local")
        assert (no_name.status, "or above it" in no_name.err) == (2, True), no_name
    assert list(team_desk.project.iterdir()) == []
    team_desk.made("shop-codex", "--local")
    other = tmp_path / "other"
    other.mkdir()
    assert team_desk.amp("init", "--local", cwd=other).status == 0
    # Not the last one, nor a new one that is called as the folder.
    inside = team_desk.project / "src"
    inside.mkdir()
    for cwd in (team_desk.project, inside):
        found = team_desk.amp("status", "--json", cwd=cwd).json["workdirs"]
        assert found[0]["agent"].startswith("shop-codex_")
    again = team_desk.amp("init")
    assert (again.status, "shop-codex" in again.out) == (0, True), again
    # A second one of this project is made by name alone, and says so; the last one is meant, if that is one of the two.
    second = team_desk.made("second", "--local")
    assert "shop-codex works on this folder, too" in second.err
    assert team_desk.amp("status", "--json").json["workdirs"][0]["agent"].startswith("second_")
    assert team_desk.amp("init", "--local", cwd=other).status == 0
    which = team_desk.amp("status")
    assert (which.status, "second, shop-codex" in which.err, "--dir" in which.err) == (2, True, True), which


def delete(workdir: Path) -> None:
    """Also while its watcher writes and tidies there."""

    def is_gone() -> bool:
        shutil.rmtree(workdir, ignore_errors=True)
        return not workdir.exists()

    until(is_gone, f"{workdir} is deleted")


@LONG
def test_an_agent_whose_folder_is_deleted_is_told_and_made_again(team_desk: TeamDesk) -> None:
    team_desk.up()
    watcher = team_desk.watching()["shop_reviewer"]
    delete(team_desk.agent("reviewer").workdir)
    until(lambda: not is_alive(watcher), "its watcher has ended")
    shown = team_desk.amp("status")
    assert "no longer there: shop_reviewer" in shown.err, shown
    assert team_desk.amp("ask", "do it", "--wait", "60").status == 0, "the others go on"
    refused = team_desk.amp("start", "--detach")
    assert (refused.status, f"amp up --dir {team_desk.team}" in refused.err) == (1, True), refused
    watched = team_desk.watching()
    assert team_desk.amp("restart", "--detach").status == 1
    assert team_desk.watching() == watched, "what cannot be started again goes on"
    again = team_desk.amp("up", "--detach")
    assert (again.status, "reviewer: set up" in again.out) == (0, True), again
    assert team_desk.amp("send", "reviewer", "look", "--wait", "60").status == 0
    delete(team_desk.agent("reviewer").workdir)
    assert team_desk.amp("stop").status == 0
    assert not team_desk.watching()


@LONG
def test_two_that_start_it_at_once_start_it_once(team_desk: TeamDesk) -> None:
    team_desk.made()
    words = [AMP, "start", "--detach"]
    both = [subprocess.Popen(words, cwd=team_desk.project, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum(text.count("watches already") for text in said) == 2, said
    assert len(team_desk.watching()) == 2
    # Made by two at once, it is one team.
    words[1] = "up"
    both = [subprocess.Popen(words, cwd=team_desk.project, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert team_desk.amp("ask", "do it", "--wait", "60").status == 0


@LONG
def test_projects_of_one_name_and_teams_of_one_project_are_kept_apart(team_desk: TeamDesk, tmp_path: Path) -> None:
    team_desk.made()
    other = tmp_path / "elsewhere" / "shop"
    other.mkdir(parents=True)
    refused = team_desk.amp("up", "--detach", cwd=other)
    assert refused.status == 2, refused
    assert str(team_desk.project) in refused.err
    assert "amp up NAME" in refused.err
    # A second team of one project, with blanks and what no name can hold.
    second = team_desk.made("Zweites Büro", "--local", "--detach", verb="up")
    assert "the team is called zweites-buro, not 'Zweites Büro'" in second.err
    assert {row["team"] for row in team_desk.amp("list", "--json").json} == {"shop", "zweites-buro"}
    first = team_desk.agent("coder").project_dir()
    assert first == Workplace(team_desk.teams / "zweites-buro" / "agents" / "zweites-buro_coder").project_dir()
    asked = team_desk.amp("ask", "--team", "zweites-buro", "do it", "--wait", "60")
    assert asked.status == 0, asked
    assert set(team_desk.watching()) == {"zweites-buro_coder", "zweites-buro_reviewer"}
    nothing = team_desk.amp("init", "日本", "--local")
    assert (nothing.status, "nothing of it is a-z or 0-9" in nothing.err) == (2, True), nothing


def test_a_program_that_is_not_there_is_told_when_the_team_starts(team_desk: TeamDesk) -> None:
    made, coder = team_desk.up(command="no-such-agent"), team_desk.agent("coder").workdir
    assert made.status == 0, made
    assert "no turn of shop_" in made.err, made
    assert "no-such-agent is not in PATH" in made.err
    # Whoever asks is told what mends it, whole, however long the PATH is.
    long = os.pathsep.join([f"/nowhere/{number:060}" for number in range(9)] + [os.environ["PATH"]])
    asked = team_desk.amp("ask", "do it", "--wait", "1", env={"PATH": long})
    mends = f"install no-such-agent, or name it with its whole path: agent-mailer config set command ... -C {coder}"
    assert (asked.status, mends in " ".join(asked.err.split())) == (4, True), asked
    assert mends in " ".join(team_desk.amp("status").out.split())
    assert team_desk.amp("stop").status == 0


@LONG
def test_a_stop_says_what_it_waits_for_and_can_be_left_or_hurried(
    team_desk: TeamDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_MAILER_STOP_GRACE", "300")
    team_desk.up(command=SLOW.format(go=team_desk.project / "go"))
    team_desk.amp("send", "coder", "work")
    until(lambda: team_desk.log("coder", EventName.TURN_STARTED), "its turn")
    hurry = f"amp stop --now --dir {team_desk.team}"
    words = [AMP, "stop"]
    with subprocess.Popen(
        words, cwd=team_desk.project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        said = ""
        while hurry not in said:
            line = one.stdout.readline()
            assert line, (said, one.stderr and one.stderr.read())
            said += line
        assert "waiting for shop_coder: it works on mail from user" in said
        assert "it has stop_grace = 300 seconds" in said
        one.send_signal(signal.SIGINT)
        left = one.communicate()[1]
    assert (one.returncode, "shop_coder: still at work" in left, hurry in left) == (130, True, True), left
    assert set(team_desk.watching()) == {"shop_coder"}, "it has its time"
    assert not team_desk.log("coder", EventName.TURN_ENDED)
    done = team_desk.amp("stop", "--now")
    assert (done.status, "shop_coder ends now" in done.out) == (0, True), done
    assert not team_desk.watching()
    [ended] = team_desk.log("coder", EventName.TURN_ENDED)
    assert ended["outcome"] == "interrupted"
    # It has cost the message nothing, and runs again.
    (team_desk.project / "go").touch()
    assert team_desk.amp("start", "--detach").status == 0
    until(lambda: len(team_desk.log("coder", EventName.TURN_ENDED)) > 1, "its end")
    assert [row["outcome"] for row in team_desk.log("coder", EventName.TURN_ENDED)] == ["interrupted", "done"]


@LONG
def test_a_second_stop_ends_no_turn_that_has_time(team_desk: TeamDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_MAILER_STOP_GRACE", "300")
    go = team_desk.project / "go"
    team_desk.up(command=SLOW.format(go=go))
    team_desk.amp("send", "coder", "work")
    until(lambda: team_desk.log("coder", EventName.TURN_STARTED), "its turn")
    with subprocess.Popen([AMP, "stop"], cwd=team_desk.project, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        until(lambda: "shop_reviewer stops" in first.stdout.readline(), "it has told all")  # type: ignore[union-attr]
        until(lambda: set(team_desk.watching()) == {"shop_coder"}, "the idle one has ended")
        lock = team_desk.agent("coder").folder.path / ".lock"
        until(lambda: (holder := holder_of(lock)) is not None and holder.leaving, "the other has heard of it")
        with subprocess.Popen([AMP, "stop"], cwd=team_desk.project, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "shop_coder ends already\n"
            go.touch()
            assert (first.wait(), second.wait()) == (0, 0)
    assert [row["outcome"] for row in team_desk.log("coder", EventName.TURN_ENDED)] == ["done"]


@LONG
def test_who_asks_and_waits_no_longer_is_told_that_it_goes_on(team_desk: TeamDesk) -> None:
    go = team_desk.project / "go"
    team_desk.up(command=SLOW.format(go=go))
    with subprocess.Popen([AMP, "ask", "work"], cwd=team_desk.project, stderr=subprocess.PIPE, text=True) as asking:
        assert asking.stderr is not None
        until(lambda: "is at work" in asking.stderr.readline(), "its turn")  # type: ignore[union-attr]
        asking.send_signal(signal.SIGINT)
        said = asking.communicate()[1]
    assert (asking.returncode, "it stays sent" in said) == (130, True), said
    assert f"agent-mailer mail inbox -C {team_desk.agent('coder').workdir}" in " ".join(said.split())
    go.touch()
    until(lambda: team_desk.log("coder", EventName.TURN_SETTLED), "its end")
    came = type_in(team_desk.project, "mail", "inbox", "-C", team_desk.agent("coder").workdir, "--as", "user")
    assert "shop_coder" in came.out, came


@LONG
def test_a_team_in_a_tmux_that_this_shell_does_not_see(team_desk: TeamDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    team_desk.made()
    with terminal(["env", "-u", "TMUX", AMP, "start", "--no-attach"], team_desk.project) as screen:
        screen.until("shop runs (tmux)")
        assert screen.until_ended() == 0
    known = json.loads((team_desk.team / ".amp" / "tmux").read_text())
    there = ["tmux", "-S", known["socket"]]
    other = team_desk.project.parent / "other"
    other.mkdir()
    monkeypatch.setenv("TMUX_TMPDIR", str(other))
    assert "shop runs (tmux)" in team_desk.amp("start").out, "where it is, whoever asks from where"
    assert "shop runs (tmux)" in team_desk.amp("restart").out
    stopped = team_desk.amp("stop")
    assert "closed the tmux session amp-shop" in stopped.out, stopped
    assert subprocess.run([*there, "has-session"], check=False, capture_output=True).returncode == 1
    assert not (team_desk.team / ".amp" / "tmux").exists()
    # A server that cannot be reached is told, with what makes it listen again.
    with terminal(["env", "-u", "TMUX", AMP, "start", "--no-attach"], team_desk.project) as screen:
        screen.until("shop runs (tmux)")
    known = json.loads((team_desk.team / ".amp" / "tmux").read_text())
    Path(known["socket"]).unlink()
    pid = known["process"]["pid"]
    lost = team_desk.amp("stop")
    assert (lost.status, f"kill -USR1 {pid}" in lost.out, "cannot be reached" in lost.out) == (0, True, True), lost
    os.kill(pid, signal.SIGUSR1)
    until(lambda: Path(known["socket"]).exists(), "it listens again")
    assert "closed the tmux session amp-shop" in team_desk.amp("stop").out
