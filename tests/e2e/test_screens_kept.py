"""What each everyday command shows on a real terminal of 80 and 120 columns, kept as text; no line too long at 40."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.e2e.kept_screens import compare, compare_once_drawn, filled_desk, vague
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import COMMAND

from agent_mailer.cli.terminal.screen import cells
from agent_mailer.state.workdirs import remember

pytestmark = LONG

SCREENS = {
    "status": ("status",),
    "inbox": ("inbox",),
    "turns-list": ("turns", "list"),
    "turns-show": ("turns", "show", "TURN"),
    "turns-thread": ("turns", "thread", "ask"),
    "cost": ("cost",),
    "cost-by-sender": ("cost", "--by", "sender"),
    "dead-letter-list": ("dead-letter", "list"),
    "stuck-list": ("stuck", "list"),
    "held-list": ("held", "list"),
    "approvals-list": ("approvals", "list"),
    "sessions-list": ("sessions", "list"),
    "approvals-show": ("approvals", "show", "QUESTION"),
    "held-show": ("held", "show", "00000004"),
    "dead-letter-show": ("dead-letter", "show", "00000003"),
    "everything": (),
}


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[Desk, dict[str, str], str]]:
    """An agent of whom there is something of everything, the environment of its person, and what it asks."""
    with filled_desk() as desk:
        state = str(desk.base / "state")
        question = desk.place().state.approvals.open()[0].id
        yield desk, {"HOME": str(desk.base), "XDG_STATE_HOME": state}, question


def shown(desk: Desk, env: dict[str, str], *words: str, width: int, height: int = 60) -> str:
    with terminal([COMMAND, *words], desk.workdir, env, width=width, height=height) as screen:
        screen.until_ended()
        return screen.screen()


@pytest.mark.parametrize("name", SCREENS)
def test_it_shows_what_is_kept(full: tuple[Desk, dict[str, str], str], name: str) -> None:
    desk, env, question = full
    turns = desk.place().state.turns
    first = min(filter(None, map(turns.load, turns.ids())), key=lambda record: record.claimed_at)
    meant = {"TURN": first.turn_id, "QUESTION": question}
    words = [meant.get(word, word) for word in SCREENS[name]]
    remember_in(env, desk.workdir)
    for width in (40, 80, 120):
        seen = shown(desk, env, *words, width=width, height=100)
        assert max(map(cells, seen.splitlines())) <= width
        if width >= 80:
            compare(f"{name}-{width}", vague(seen, desk))


def remember_in(env: dict[str, str], *workdirs: Path) -> None:
    """In the state folder of `env`."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = env["XDG_STATE_HOME"]
    try:
        for workdir in workdirs:
            remember(workdir)
    finally:
        del os.environ["XDG_STATE_HOME"]
        if before is not None:
            os.environ["XDG_STATE_HOME"] = before


@pytest.mark.parametrize("many", [0, 40])
def test_alone_with_no_agent_and_with_forty(tmp_path: Path, many: int) -> None:
    env = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    for number in range(many):
        folder = tmp_path / "many" / f"agent-{number:03}"
        (folder / ".agent-mailer").mkdir(parents=True, mode=0o700)
        config = folder / ".agent-mailer" / "config.toml"
        config.write_text(f"address = 'agent-{number:03}'\n")
        config.chmod(0o600)
        remember_in(env, folder)
    for width in (80, 120):
        with terminal([COMMAND], tmp_path, env, width=width, height=40) as screen:
            assert screen.until_ended() == 0
            compare(f"alone-{many}-{width}", vague(screen.screen()))


def test_the_board(full: tuple[Desk, dict[str, str], str]) -> None:
    desk, env, _ = full
    remember_in(env, desk.workdir)
    for width in (80, 200):
        words = [COMMAND, "status", "--all", "--watch"]
        with terminal(words, desk.workdir, env, width=width, height=40) as screen:
            seen = screen.until("at work", " AGENT ", "NEEDS YOU", "MAIL", "leave")
            assert max(map(cells, seen.splitlines())) <= width
            compare_once_drawn(f"board-{width}", lambda drawn=screen: vague(drawn.screen(), desk))  # type: ignore[misc]
            screen.press("q")
            assert screen.until_ended() == 0


def test_doctor_says_first_what_is_wrong(full: tuple[Desk, dict[str, str], str]) -> None:
    desk, env, _ = full
    before = desk.settings["command"]
    desk.configure(command=["no-such-program"])
    try:
        for width in (80, 120):
            wrong, _, well = shown(desk, env, "doctor", width=width).partition("\nok ")
            assert "checks" in well
            # How many of its folders fit is the machine's.
            wrong = re.sub(r"\s+\(/[^)]*\)", " (PATH)", wrong)
            compare(f"doctor-wrong-{width}", vague(wrong, desk))
    finally:
        desk.configure(command=before)


READING = [
    *SCREENS.values(),
    *(("--help",), ("help",), ("help", "modes"), ("config", "show"), ("logs", "--tail", "1000"), ("limits", "show")),
    *(("mail", "sent"), ("mail", "thread", "ask"), ("mail", "search", "rain"), ("mail", "contacts"), ("mail", "who")),
    *(("memory", "ls"), ("schedules", "list"), ("metrics",), ("verify",), ("doctor", "--verbose")),
    *(("watch", "--dry-run"), ("status", "--all"), ("fetch", "00000006"), ("stuck", "show", "00000003")),
]


@pytest.mark.parametrize("how", ["closed", "full disk"])
def test_a_reader_who_leaves_is_no_fault(full: tuple[Desk, dict[str, str], str], how: str) -> None:
    """As `| head` does once it has seen enough, here before the first word; and what a full disk says."""
    desk, env, question = full
    turn = min(path.name for path in (desk.state / "turns").iterdir())
    for command in READING:
        words = [{"TURN": turn, "QUESTION": question}.get(word, word) for word in command]
        if how == "closed":
            reader, writer = os.pipe()
            os.close(reader)
        else:
            writer = os.open("/dev/full", os.O_WRONLY)
        try:
            done = subprocess.run(
                [COMMAND, *words],
                cwd=desk.workdir,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=120,
            )
        finally:
            os.close(writer)
        assert "Traceback" not in done.stderr, (command, done.stderr)
        assert "Exception ignored" not in done.stderr, (command, done.stderr)
        assert "fault of agent-mailer" not in done.stderr, (command, done.stderr)
        if how == "closed":
            assert "error" not in done.stderr, (command, done.stderr)
        elif done.returncode == 0:
            assert done.stderr, (command, "there is nothing, and it was not said")
        else:
            assert "No space left on device" in done.stderr, (command, done.stderr)


def test_jq_and_less_read_it(full: tuple[Desk, dict[str, str], str]) -> None:
    desk, env, _ = full
    lists = ("status", "inbox", "turns list", "cost", "dead-letter list", "stuck list", "held list", "approvals list")
    script = "; ".join(f"{COMMAND} {words} --json | jq -e type" for words in lists)
    with terminal(["/bin/sh", "-c", script], desk.workdir, env, width=80) as screen:
        screen.until_ended()
        assert screen.screen().splitlines() == ['"object"'] * len(lists)
    with terminal(["/bin/sh", "-c", f"{COMMAND} turns list | LESS= less"], desk.workdir, env, width=40) as screen:
        shown = screen.until("subject")
        assert "1b[" not in shown
        assert "ESC" not in shown
        screen.press("q")
        assert screen.until_ended() == 0


@pytest.mark.parametrize("plain", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"LC_ALL": "C"}], ids=["dumb", "none", "ascii"])
def test_at_40_columns_without_colours_or_letters_it_can_be_read(
    full: tuple[Desk, dict[str, str], str], plain: dict[str, str]
) -> None:
    desk, env, _ = full
    for words in (("status",), ("turns", "list"), ("inbox",), ()):
        # tmux says TERM itself: so it is said behind it.
        argv = ["env", *(f"{name}={value}" for name, value in plain.items()), COMMAND, *words]
        with terminal(argv, desk.workdir, env, width=40, height=100) as screen:
            screen.until_ended()
            painted, shown = screen.screen(escapes=True), screen.screen()
        assert max(map(cells, shown.splitlines())) <= 40
        if "LC_ALL" in plain:
            assert "…" not in shown
            assert "·" not in shown
        else:
            assert "\x1b[3" not in painted
