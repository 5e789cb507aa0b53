"""`test-runtime`: one real turn in a scratch folder, and what is wrong said where it fails; a broken program."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, until
from tests.integration.test_checks_brief import gone
from tests.integration.test_checks_doctor import tree
from tests.sizes import LONG
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.assemble import Workplace
from agent_mailer.checks import Level
from agent_mailer.checks.agent import check_probes, program_of
from agent_mailer.checks.trial import trial_settings
from agent_mailer.config import expand
from agent_mailer.state.records import Pause, PauseReason

Break = Callable[[Desk], object]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An agent with mail waiting, which the trial must leave alone."""
    found = Desk(tmp_path)
    found.send()
    return found


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def try_out(desk: Desk, *words: str, command: str = "test-runtime", env: dict[str, str] | None = None) -> Typed:
    """Run the trial, and see to it that mailbox and state stay as they were."""
    before = tree(desk.root), tree(desk.workdir)
    done = type_in(desk.workdir, command, *words, env=env)
    assert (tree(desk.root), tree(desk.workdir)) == before
    return done


def test_an_answer_is_shown_with_what_happened_and_nothing_is_left(desk: Desk, scratch: Path, home: Path) -> None:
    desk.shell("cat >/dev/null; echo pong")
    done = try_out(desk)
    assert done.status == 0, done
    assert "turn started" in done.out
    assert "outcome=done" in done.out
    assert done.out.endswith("\npong\n")
    assert list(scratch.iterdir()) == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_the_agent_reads_the_mail_with_its_tools_and_sees_its_settings(desk: Desk, scratch: Path) -> None:
    desk.configure(
        api_key="amk_secret",
        env={"set": {"COLOUR": "green"}},
        auto_reply="never",
        command=[
            "/bin/sh",
            "-c",
            'agent-mailer mail read | grep -q "one word pong" && agent-mailer mail reply --body "$COLOUR pong"; '
            "env | grep -c -e amk_secret -e API_KEY >&2; exit 0",
        ],
    )
    done = try_out(desk, "--json", env={"AGENT_MAILER_API_KEY": "amk_secret"})
    assert done.status == 0, done
    assert done.json["answer"] == "green pong"
    assert (done.json["outcome"], done.json["runtime"]) == ("done", "command")
    assert done.json["stderr"][-1] == "0"


def test_auto_reply_never_is_no_hindrance(desk: Desk, scratch: Path) -> None:
    desk.configure(auto_reply="never", command=["/bin/echo", "something else"])
    done = try_out(desk)
    assert done.status == 0
    assert "something else" in done.out
    assert "asked for the word pong" in done.out


def test_files_of_the_workdir_are_found_from_the_scratch_folder(desk: Desk, scratch: Path) -> None:
    (desk.workdir / "agent.sh").write_text('#!/bin/sh\ncat >/dev/null\necho "pong $1 in $(basename "$PWD")"\n')
    (desk.workdir / "agent.sh").chmod(0o755)
    for command in (["./agent.sh", "x"], ["sh", "agent.sh", "x"]):
        desk.configure(command=command)
        assert try_out(desk, "--json").json["answer"] == "pong x in workdir", command


def test_what_the_sandbox_opens_and_hides_is_the_same_from_the_scratch_folder(desk: Desk, tmp_path: Path) -> None:
    named = ["secrets", "../beside", "~/mine", "/srv/all"]
    desk.configure(sandbox={"kind": "off", "read": named, "write": named, "hide": named})
    place = desk.place()
    trial = Workplace(tmp_path / "scratch", trial_settings(place.config, desk.workdir, desk.root, 9))
    for key in ("read", "write", "hide"):
        meant = [expand(path, desk.workdir) for path in named] + [desk.workdir] * (key == "read")
        assert [expand(path, trial.workdir) for path in getattr(trial.config.sandbox, key)] == meant, key


def test_keep_leaves_the_scratch_folder(desk: Desk, scratch: Path) -> None:
    desk.shell("cat >/dev/null; echo pong")
    done = try_out(desk, "--keep", "--json")
    assert done.status == 0
    kept = Path(done.json["scratch"])
    assert kept.parent == scratch.resolve()
    [stdout] = kept.glob("workdir/.agent-mailer/turns/*/stdout")
    assert stdout.read_text() == "pong\n"
    assert f"Kept: {scratch.resolve()}" in try_out(desk, "--keep").out


def typed(line: str) -> Break:
    def configure(desk: Desk) -> None:
        desk.configure(command_output="jsonl", command=["/bin/sh", "-c", f"cat >/dev/null; echo '{line}'"])

    return configure


def agent_file(mode: int) -> Break:
    def make(desk: Desk) -> None:
        (desk.workdir / "agent").write_text("#!/bin/sh\necho pong\n")
        (desk.workdir / "agent").chmod(mode)
        desk.configure(command=["./agent"])

    return make


def agent_folder(desk: Desk) -> None:
    (desk.workdir / "agent").mkdir()
    desk.configure(command=["./agent"])


def shell(script: str) -> Break:
    return lambda desk: desk.shell(script)


FAILURES: dict[str, tuple[Break, int, str | None, str, str]] = {
    "missing": (lambda d: d.configure(command=["no-agent"]), 69, "unavailable", "no-agent is not in PATH", "install"),
    "missing file": (
        lambda d: d.configure(command=["./no"]),
        69,
        "unavailable",
        "does not exist",
        "config set command",
    ),
    "a folder": (agent_folder, 69, "unavailable", "is a directory", "config set command"),
    "not executable": (agent_file(0o644), 69, "unavailable", "not executable", "chmod +x"),
    "exit 3": (shell("cat >/dev/null; echo 'no such model' >&2; exit 3"), 1, "failed", "no such model", "/stderr"),
    "killed": (shell("kill -9 $$"), 1, "crashed", "SIGKILL", "/stderr"),
    "silent": (shell("cat >/dev/null"), 1, "done", "no answer", "/stdout"),
    "signed out": (
        typed('{"type":"result","outcome":"signed_out","detail":"key refused"}'),
        77,
        "signed_out",
        "key refused",
        "log the program in",
    ),
    "limited": (
        typed('{"type":"result","outcome":"limited","detail":"weekly limit"}'),
        69,
        "limited",
        "weekly limit",
        "wait until",
    ),
    "unavailable": (
        typed('{"type":"result","outcome":"unavailable","detail":"no network"}'),
        69,
        "unavailable",
        "no network",
        "agent-mailer doctor",
    ),
    "blocked": (
        typed('{"type":"result","outcome":"blocked","text":"May I?"}'),
        1,
        "blocked",
        "",
        "config set permission_mode",
    ),
    "no result": (typed('{"type":"progress","text":"x"}'), 1, "failed", "ended without a result", "/stdout"),
}


@pytest.mark.parametrize("fault", FAILURES)
def test_each_failure_is_named_with_what_mends_it_and_its_output_kept(desk: Desk, scratch: Path, fault: str) -> None:
    breaks, status, outcome, detail, fix = FAILURES[fault]
    breaks(desk)
    done = try_out(desk, "--json")
    assert done.status == done.json["exit_code"] == status, done.out
    found: dict[str, Any] = done.json
    assert found["outcome"] == outcome
    assert detail in found["detail"]
    assert fix in found["fix"]
    assert found["fix"] not in found["detail"], "said once"
    assert Path(found["scratch"]).is_dir()
    if fault == "exit 3":
        assert found["stderr"] == ["no such model"]
    if fault == "blocked":
        assert found["answer"] == "May I?"


def test_people_read_how_it_ended_its_last_words_and_what_mends_it(desk: Desk, scratch: Path) -> None:
    desk.shell("cat >/dev/null; for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; exit 3")
    done = try_out(desk)
    assert done.status == 1
    assert "command ended as failed after " in done.out
    assert [line for line in done.out.splitlines() if "stderr: " in line] == [
        f"  stderr: line {n}" for n in range(3, 8)
    ]
    assert "\n  fix: look at " in done.out
    [kept] = scratch.iterdir()
    assert done.out.rstrip().endswith(f"Kept: {kept.resolve()}")


@LONG
def test_what_never_ends_is_ended(desk: Desk, scratch: Path) -> None:
    witness = desk.base / "pid"
    desk.shell(f"cat >/dev/null; sleep 1000 & echo $! >{witness}; trap '' TERM; wait")
    done = try_out(desk, "--timeout", "1", "--json")
    assert done.status == 1
    assert (done.json["outcome"], done.json["answer"]) == ("timed_out", None)
    assert "--timeout 3" in done.json["fix"]
    assert gone(witness)


def test_a_limit_met_by_the_trial_pauses_nobody_and_one_met_by_others_keeps_it_from_nothing(
    desk: Desk, scratch: Path, home: Path
) -> None:
    """The account is that of all watchers of the user on it."""
    said = '{"type":"result","subtype":"success","is_error":%s,"result":"%s","session_id":"s","api_error_status":%s}'
    desk.configure(runtime="claude")
    fake_claude(desk, said % ("true", "out of quota", "429"))
    done = try_out(desk)
    assert (done.status, "claude ended as limited" in done.out) == (69, True)
    assert "paused" not in done.out
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert not (desk.state / "pause.json").exists()
    place = desk.place()
    place.share_pause(place.runtime())
    account = place.state.pause.account
    assert account is not None
    paused = Pause(PauseReason.LIMITED, place.clock.now(), place.clock.now() + 3600)
    account.write(paused)
    fake_claude(desk, said % ("false", "pong", "null"))
    assert try_out(desk, "--json").json["answer"] == "pong"
    assert account.read() == paused


def test_ctrl_c_ends_the_turn_and_leaves_nothing(desk: Desk, scratch: Path) -> None:
    witness = desk.base / "pid"
    desk.shell(f"cat >/dev/null; echo $$ >{witness}; exec sleep 1000")
    process = subprocess.Popen([COMMAND, "test-runtime"], cwd=desk.workdir, stdout=subprocess.DEVNULL)
    try:
        until(lambda: witness.exists() and witness.read_text().strip(), "the agent runs")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert gone(witness)
    assert list(scratch.iterdir()) == []


def test_what_to_start_must_be_said_but_no_mailbox_is_needed(desk: Desk, scratch: Path) -> None:
    desk.settings.pop("permission_mode")
    desk.configure(maildir_root="nowhere", command=["/bin/echo", "pong"])
    done = try_out(desk, "--json")
    assert done.status == 78
    assert done.json["error"]["code"] == "incomplete"
    assert "--permission-mode" in done.json["error"]["fix"]
    desk.settings.pop("address")
    desk.configure(permission_mode="plan")
    assert try_out(desk, "--json").json["answer"] == "pong"
    assert try_out(desk, "--timeout", "0").status == 2
    assert list(scratch.iterdir()) == []


def fake_claude(desk: Desk, result: str, login: int = 0) -> None:
    path = desk.workdir / "claude"
    path.write_text(
        "#!/bin/sh\ncase $1 in --version) echo '2.1.300 (Claude Code)' ;; auth) "
        f"exit {login} ;; *) cat >/dev/null; echo '{result}' ;; esac\n"
    )
    path.chmod(0o755)
    desk.configure(claude_command="./claude")


def test_claude_is_tried_whatever_the_runtime_is(desk: Desk, scratch: Path) -> None:
    fake_claude(desk, '{"type":"result","subtype":"success","is_error":false,"result":"pong","session_id":"s"}')
    done = try_out(desk, "--json", command="test-claude")
    assert done.status == 0, done.out
    assert (done.json["runtime"], done.json["answer"]) == ("claude", "pong")
    assert try_out(desk, "--json").json["runtime"] == "command"


def test_a_program_that_says_what_is_wrong_with_it_is_quoted(desk: Desk, scratch: Path) -> None:
    fake_claude(desk, "not what claude says", login=1)
    done = try_out(desk, "--json", command="test-claude")
    assert done.status == 1, done.out
    assert "claude auth login" in done.json["fix"]
    desk.configure(claude_command="no-such-claude")
    done = try_out(desk, command="test-claude")
    assert done.status == 69
    assert "no-such-claude is not in PATH" in done.out
    assert "fix: install no-such-claude" in done.out


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("echo 'libssl.so.3: cannot open shared object file' >&2; exit 127", Level.FAILED),
        ("echo '2.1.300 (Claude Code)'; exit 1", Level.FAILED),
        ("kill -SEGV $$", Level.FAILED),
        ("echo '1.0.0 (Claude Code)'", Level.WARNING),
        ("echo '2.1.300 (Claude Code)'", Level.OK),
    ],
)
def test_a_program_that_cannot_even_tell_its_version_is_broken_and_an_old_one_is_warned_of(
    desk: Desk, version: str, level: Level
) -> None:
    fake_claude(desk, "")
    (desk.workdir / "claude").write_text(f"#!/bin/sh\ncase $1 in --version) {version} ;; esac\n")
    desk.configure(runtime="claude")
    place = desk.place()
    [found] = [one for one in check_probes(place.runtime(), program_of(place)) if one.name == "version"]
    assert found.result is level, found
    assert bool(found.fix) == (level is not Level.OK)
