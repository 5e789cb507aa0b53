"""What the shell offers after TAB: the installed program asked as each shell asks it, and a real bash."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import COMMAND, type_in
from typer.completion import get_completion_script  # type: ignore[attr-defined]

SCRIPTS = Path(__file__).resolve().parents[2] / "packaging" / "completions"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An agent that has settled one message and given up another."""
    desk = Desk(tmp_path)
    desk.send(thread="green")
    desk.once()
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 3")
    desk.send(thread="grey")
    desk.once()
    return desk


def offered(cwd: Path, line: str) -> list[str]:
    """The program's answer to bash for a line that ends where the cursor is."""
    words = line.split(" ")
    env = {
        "_AGENT_MAILER_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = type_in(cwd, env=env)
    assert (done.status, done.err) == (0, ""), done
    return [line for line in done.out.splitlines() if line]


def test_commands_options_and_what_the_workdir_holds_are_offered(desk: Desk) -> None:
    turns = sorted(path.name for path in (desk.state / "turns").iterdir())
    for line, wanted in {
        "agent-mailer se": ["send", "sessions", "service"],
        "agent-mailer dead-letter re": ["retry"],
        "agent-mailer turns list --ou": ["--outcome"],
        "agent-mailer turns list --outcome tim": ["timed_out"],
        "agent-mailer init --permission-mode p": ["plan"],
        "agent-mailer turns thread gr": ["green", "grey"],
        "agent-mailer turns list --thread gree": ["green"],
        "agent-mailer turns show 2": turns,
        "agent-mailer turns show nothing": ["<TURN>", " "],
        "agent-mailer sessions show gr": ["<THREAD>", " "],
        "agent-mailer nonsense x": ["<COMMAND>", " "],
        "agent-mailer doctor x": ["<OPTION>", " "],
        "agent-mailer turns list --limit ": ["<N>", " "],
        "agent-mailer send co": ["coder"],
        "agent-mailer send coder co": ["<TEXT>", " "],
        "agent-mailer inbox --from pl": ["planner"],
        "agent-mailer inbox --kind q": ["question"],
        "agent-mailer config set permission_mode p": ["plan"],
        "agent-mailer config set max_retries ": ["<VALUE>", " "],
        "agent-mailer help turns st": ["stop"],
        "agent-mailer help mod": ["modes"],
        "agent-mailer send --body-file re": [],
        "agent-mailer status -C no": [],
    }.items():
        assert sorted(offered(desk.workdir, line)) == sorted(wanted), line
    (letter,) = type_in(desk.workdir, "dead-letter", "list", "--json").json["dead_letters"]
    assert offered(desk.workdir, "agent-mailer dead-letter retry 2") == [letter["message_id"]]
    assert offered(desk.base, f"agent-mailer dead-letter retry -C {desk.workdir} 2") == [letter["message_id"]]


def test_a_folder_that_is_none_or_is_broken_offers_nothing_and_says_nothing(desk: Desk) -> None:
    nothing = ["<TURN>", " "]  # readline takes no file instead of two words that begin differently
    assert offered(desk.base, "agent-mailer turns show ") == nothing
    (desk.state / "dead_letter.jsonl").write_text("nonsense\n")
    (desk.state / "sessions.json").write_text("[")
    before = sorted(path.name for path in desk.state.iterdir())
    assert offered(desk.workdir, "agent-mailer dead-letter retry ") == ["<ID>", " "]
    assert offered(desk.workdir, "agent-mailer sessions show ") == ["<THREAD>", " "]
    assert sorted(path.name for path in desk.state.iterdir()) == before


@pytest.mark.parametrize(
    ("shell", "more"), [("complete_zsh", {}), ("complete_fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})]
)
def test_zsh_and_fish_are_answered_too(desk: Desk, shell: str, more: dict[str, str]) -> None:
    env = {"_AGENT_MAILER_COMPLETE": shell, "_TYPER_COMPLETE_ARGS": "agent-mailer turns ", **more}
    done = type_in(desk.workdir, env=env)
    assert done.status == 0
    for words in ("list", "show", "thread", "story of a thread"):
        assert words in done.out


def test_where_nothing_is_known_zsh_and_fish_take_no_file(desk: Desk) -> None:
    for words, file in (("turns show x", False), ("status -C x", True)):
        line = {"_TYPER_COMPLETE_ARGS": f"agent-mailer {words}"}
        zsh = type_in(desk.workdir, env={"_AGENT_MAILER_COMPLETE": "complete_zsh", **line})
        assert zsh.out.strip() == ("_files" if file else "_message 'TURN'")
        fish = {"_AGENT_MAILER_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "is-args", **line}
        assert type_in(desk.workdir, env=fish).status == (1 if file else 0)


@LONG
def test_tab_in_a_real_bash_completes(desk: Desk) -> None:
    here = {"PATH": f"{Path(COMMAND).parent}:/usr/bin:/bin", "PS1": "ready> "}
    with terminal(["bash", "--norc", "--noprofile"], desk.workdir, here) as screen:
        screen.type(f"PS1='ready> '; source {SCRIPTS / 'agent-mailer.bash'}")
        screen.until("ready>")
        screen.type("agent-mailer turns thr\t", enter=False)
        screen.until("agent-mailer turns thread")
        screen.type("gree\t", enter=False)
        screen.until("agent-mailer turns thread green")
        (desk.workdir / "xfile").touch()
        screen.press("C-u")
        screen.type("agent-mailer turns show x\t\t", enter=False)
        screen.until("<TURN>")
        assert "xfile" not in screen.screen()
        screen.press("C-u")
        screen.type("agent-mailer send coder --body-file x\t", enter=False)
        screen.until("agent-mailer send coder --body-file xfile")


def test_the_installed_completion_is_bash_s_own(tmp_path: Path, home: Path) -> None:
    script = f"{COMMAND} --install-completion; . ~/.bashrc; complete -p agent-mailer"
    done = subprocess.run(["bash", "--norc", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "agent-mailer" in done.stdout.splitlines()[-1]
    assert str(home) in done.stdout


@pytest.mark.parametrize("program", ["agent-mailer", "amp"])
@pytest.mark.parametrize(("shell", "name"), [("bash", "{}.bash"), ("zsh", "_{}"), ("fish", "{}.fish")])
def test_the_scripts_for_packagers_ask_as_the_installed_ones_do(program: str, shell: str, name: str) -> None:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    theirs = get_completion_script(prog_name=program, complete_var=variable, shell=shell)
    asked = re.compile(r"\b_?[A-Z]+(?:_[A-Z]+)+(?==)|complete_[a-z]+")
    script = SCRIPTS / name.format(program)
    ours = script.read_text()
    assert set(asked.findall(theirs)) <= set(asked.findall(ours))
    assert f"{program} " in ours.replace("\n", " ")
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n", script], check=True)
