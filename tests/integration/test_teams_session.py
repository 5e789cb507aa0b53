"""A team's session of tmux is found by its whole name, and so is each of its windows; it stays where the team ran."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.team_folder import team_in
from tests.typed import Terminal

from agent_mailer.assemble import Workplace
from agent_mailer.cli.team.making import init
from agent_mailer.cli.team.running import restart
from agent_mailer.errors import BusyFault, MailerError, UsageFault
from agent_mailer.teams.running import stop, watchers
from agent_mailer.teams.session import Session
from agent_mailer.teams.stopped import FOLDER

pytestmark = pytest.mark.skipif(
    not any((Path(folder) / "tmux").exists() for folder in os.environ["PATH"].split(os.pathsep)),
    reason="tmux is not installed",
)

BOARD = ["sleep", "600"]
WORDS = ["sh", "-c", "echo of $0; exec sleep 600"]
Team = Callable[[str], Session]


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """The session of a team of that name, or of one at that path, in a server of this test's own."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    monkeypatch.delenv("TMUX", raising=False)

    def of(where: str) -> Session:
        directory = tmp_path / "teams" / where
        (directory / FOLDER).mkdir(parents=True, exist_ok=True)
        return Session(directory.name, directory)

    yield of
    # Where a test has said so, it is another's terminal.
    monkeypatch.delenv("TMUX", raising=False)
    subprocess.run(["tmux", "kill-server"], check=False, capture_output=True)


def tmux(*words: str) -> str:
    return subprocess.run(["tmux", *words], check=True, capture_output=True, text=True).stdout


def windows(session: Session) -> list[str]:
    return tmux("list-windows", "-t", f"={session.name}:", "-F", "#{window_name}").split()


def test_who_attaches_gets_the_word_that_works_in_his_terminal(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team("shop").open(BOARD)
    socket = tmux("list-sessions", "-F", "#{socket_path}").strip()
    session = team("shop")
    assert session.attach_words()[-3:] == ["attach-session", "-t", "=amp-shop"]
    monkeypatch.setenv("TMUX", f"{socket},1,0")
    assert session.attach_words()[-3] == "switch-client"
    monkeypatch.setenv("TMUX", f"{tmp_path / 'other'},1,0")
    with pytest.raises(UsageFault, match="in another tmux server") as fault:
        session.attach_words()
    assert fault.value.fix.endswith("attach-session -t =amp-shop")


def test_a_session_is_its_folders_and_not_that_of_a_team_of_the_same_name(team: Team, tmp_path: Path) -> None:
    team("work/shop").open(BOARD)
    (tmp_path / "teams" / "by-link").symlink_to("work")
    assert team("by-link/shop").is_ours(), "by whatever name one has come there"
    assert (team("work/shop").is_ours(), team("home/shop").is_ours()) == (True, False)
    with pytest.raises(BusyFault):
        team("home/shop").require_ours()
    team("work/shop").require_ours()


def test_a_team_whose_name_begins_the_name_of_another_has_a_session_of_its_own(team: Team, tmp_path: Path) -> None:
    other, ours = team("shop-codex"), team("shop")
    other.open(BOARD)
    other.show("coder", tmp_path, WORDS)
    assert (ours.exists(), ours.is_ours(), ours.ended()) == (False, False, {})
    ours.require_ours()
    ours.close("coder")
    ours.kill()
    assert windows(other) == ["Team", "coder"], "nothing of another team's is ended"
    ours.open(BOARD)
    ours.show("coder", tmp_path, WORDS)
    assert (windows(ours), windows(other)) == (["Team", "coder"],) * 2
    ours.kill()
    assert (ours.exists(), other.exists()) == (False, True)


@pytest.mark.parametrize(("one", "other"), [("coder", "coder2"), ("1", "coder"), ("1", "10"), ("team", "coder")])
def test_an_agents_window_is_opened_closed_and_read_and_no_other_that_is_called_nearly_so(
    team: Team, tmp_path: Path, one: str, other: str
) -> None:
    session = team("shop")
    session.open(BOARD)
    session.show(other, tmp_path, WORDS)
    session.close(one)
    assert windows(session) == ["Team", other]
    heard = tmp_path / "heard"
    session.show(one, tmp_path, ["sh", "-c", f"echo its last words; while [ ! -e {heard} ]; do sleep 0.02; done"])
    assert sorted(windows(session)) == sorted(["Team", other, one])
    # What tmux has not read when it knows of the end, it does not read any more.
    until(lambda: "words" in tmux("capture-pane", "-p", "-t", f"={session.name}:{{end}}"), "it is shown")
    heard.touch()
    until(session.ended, "it has ended")
    [(name, said)] = session.ended().items()
    assert (name, said.splitlines()[0]) == (one, "its last words")
    session.show(one, tmp_path, WORDS)
    assert (sorted(windows(session)), session.ended()) == (sorted(["Team", other, one]), {}), "in place of the other"
    session.close(one)
    assert windows(session) == ["Team", other]


WATCHES = """import sys
from pathlib import Path
from agent_mailer.state.lock import WorkdirLock
lock = WorkdirLock(Path(sys.argv[1]))
lock.acquire()
print("watches", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("again", [True, False], ids=["started again meanwhile", "nobody starts it"])
def test_a_stop_closes_the_session_unless_somebody_has_started_the_team_again_meanwhile(
    team: Team, tmp_path: Path, again: bool
) -> None:
    session, desk = team("shop"), Desk(tmp_path / "desk")
    session.open(BOARD)
    new = desk.place().lock()
    words = [sys.executable, "-c", WATCHES, str(desk.state / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watches\n"
        lines = stop("shop", tmp_path / "teams" / "shop", {"coder": desk.place()})
        assert next(lines) == "coder stops"
        watcher.wait()
        if again:
            new.acquire()
        try:
            said = [*lines]
        finally:
            new.release()
    assert (said, session.exists()) == (([], True) if again else (["closed the tmux session amp-shop"], False))


@pytest.mark.parametrize("in_tmux", [True, False], ids=["typed without a terminal", "typed at a terminal"])
def test_a_team_is_begun_anew_where_it_ran_wherever_that_is_typed(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_tmux: bool
) -> None:
    """A session that nobody asked for would end the team with it."""
    folder = team_in(tmp_path)
    init(directory=folder)
    program = tmp_path / "bin" / "agent-mailer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n[ $1 = team ] && exec sleep 600\necho 'error: begun anew' >&2; exit 1\n")
    program.chmod(0o755)
    session = Session("shop", folder)
    if in_tmux:
        session.open(BOARD)
    else:
        monkeypatch.setattr(sys, "stdout", Terminal())
    coder = {"shop_coder": Workplace(folder / "agents" / "shop_coder")}
    words = [sys.executable, "-c", WATCHES, str(coder["shop_coder"].folder.path / ".lock")]
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watches\n"
        with pytest.raises(UsageFault, match="two places"):
            restart(directory=folder, detach=True, systemd=True)
        assert [*watchers(coder)] == ["shop_coder"], "what cannot be started again is not stopped"
        with pytest.raises(MailerError, match="error: begun anew"):
            restart(directory=folder)
    assert session.exists() == in_tmux
    assert (folder / "logs" / "shop_coder.err").exists() != in_tmux
