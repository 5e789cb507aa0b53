"""No turn without a sandbox that holds: what is missing, forbidden, broken since yesterday, or lies, starts nothing."""

from __future__ import annotations

import asyncio
import copy
import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.desk import CLI, SOON, Desk, outcomes, until
from tests.integration.test_confined import runs_here
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.checks.agent import program_of
from agent_mailer.confine.confinement import Confinement
from agent_mailer.confine.landlock import enters
from agent_mailer.confine.port import Kind, TurnPlaces, Unconfined
from agent_mailer.confine.proof import Proof
from agent_mailer.errors import ConfigFault
from agent_mailer.events import EventName
from agent_mailer.process.handle import identify, is_alive
from agent_mailer.processes import children
from agent_mailer.runtimes.port import Launch
from agent_mailer.setup.sandbox import settle_sandbox

LIAR = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
REFUSES = "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"


@pytest.fixture(autouse=True)
def chosen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    monkeypatch.setenv("PATH", os.environ["PATH"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.configure(permission_mode="acceptEdits", sandbox={"kind": "bwrap"})
    desk.shell_that_tells("echo done")
    return desk


def watch(desk: Desk, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One `watch --once` as a command, behind `words`."""
    return subprocess.run(
        [*words, *CLI, "watch", "--once", "--no-interactive", "--workdir", str(desk.workdir)],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def program(folder: Path, script: str) -> str:
    """A PATH that begins with a bwrap of ours."""
    folder.mkdir(exist_ok=True)
    (folder / "bwrap").write_text(script)
    (folder / "bwrap").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def proved(desk: Desk) -> Proof:
    place = desk.place()
    confinement = place.confinement(place.runtime())
    assert confinement is not None
    return asyncio.run(confinement.prove(program_of(place).launch))


def refused(desk: Desk, done: subprocess.CompletedProcess[str]) -> str:
    """What was said where nothing was started, and no mail was lost."""
    assert done.returncode == 78, done.stderr
    assert desk.marks() == []
    assert not desk.log(EventName.TURN_STARTED)
    assert "fix: " in done.stderr
    return done.stderr


def test_without_bwrap_nothing_is_started_and_what_mends_it_is_said(desk: Desk) -> None:
    desk.send()
    said = refused(desk, watch(desk, PATH="/nonexistent"))
    assert "there is no bwrap" in said
    assert "apt install bubblewrap" in said


@LONG
def test_forbidden_namespaces_start_nothing_and_the_kernels_reason_is_said(desk: Desk) -> None:
    runs_here("bwrap")
    desk.send()
    lock = 'echo 0 >/proc/sys/user/max_mnt_namespaces && exec "$@"'
    done = watch(desk, "unshare", "--user", "--map-root-user", "--", "/bin/sh", "-c", lock, "sh")
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    said = refused(desk, done)
    assert "namespace" in said
    assert "(ENOSPC)" in said or "No space left on device" in said
    assert "sysctl" in said


def test_a_sandbox_that_confines_nothing_is_found_out(desk: Desk) -> None:
    desk.send()
    said = refused(desk, watch(desk, PATH=program(desk.base / "bin", LIAR)))
    assert "can be read" in said or "can be written" in said


def test_of_a_sandbox_that_confines_nothing_every_door_is_found_open(
    desk: Desk, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", program(desk.base / "bin", LIAR))
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text("SECRET")
    desk.configure(sandbox={"kind": "bwrap", "network": "off"})
    proof = proved(desk)
    doors = (
        f"{home}/.ssh can be read",
        "canary can be read",
        f"{desk.state} can be written",
        f"{desk.base} can be written",
        "/turn can be written",
        "it sees the processes of others",
        "a socket that was not named can be reached",
        "a socket of others that has no path can be reached",
        "with network off, this machine's own ports",
        "/tmp is shared with everybody",
        *(["what the kernel runs outside"] if os.access("/proc/sys/kernel/core_pattern", os.W_OK) else []),
    )
    assert [door for door in doors if not any(door in wrong for wrong in proof.wrong)] == [], proof.wrong


@pytest.mark.parametrize("kind", ["bwrap", "landlock"])
def test_without_a_network_there_is_none(desk: Desk, kind: str) -> None:
    runs_here(kind)
    desk.configure(sandbox={"kind": kind, "network": "off"})
    assert proved(desk).wrong == ()


def test_what_an_agent_has_made_a_link_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    runs_here("landlock")
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to("outside")
    for place, allowed in ((tmp_path / "link", False), (tmp_path / "outside", True)):
        words = [*enters(), "r:/", f"w:{place}", "--", "/usr/bin/touch", str(tmp_path / "outside" / "made")]
        assert (subprocess.run(words, capture_output=True, check=False).returncode == 0) is allowed


def test_what_runs_within_ends_with_what_confines_it(desk: Desk) -> None:
    """By whatever that is killed: nobody else would know of it."""
    runs_here("bwrap")
    place = desk.place()
    confinement = place.confinement(place.runtime())
    assert confinement is not None
    turn = place.folder.turns / "turn"
    own = TurnPlaces(turn, turn / "outbox", turn / "tmp")
    own.outbox.mkdir(parents=True)
    launch = Launch(("/bin/sh", "-c", "echo; exec sleep 600 >/dev/null"), dict(os.environ), desk.workdir)
    within = asyncio.run(confinement.around(launch, own))
    with subprocess.Popen(within.argv, env=within.env, cwd=within.cwd, stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        outer.stdout.readline()
        [first] = map(identify, children(outer.pid))
        outer.kill()
    assert first is not None
    until(lambda: not is_alive(first), "its end", SOON)


def test_one_that_worked_yesterday_pauses_and_costs_no_attempt(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_here("bwrap")
    real = shutil.which("bwrap")
    monkeypatch.setenv("PATH", program(desk.base / "bin", f'#!/bin/sh\nexec {real} "$@"\n'))
    # What it is made of lies in /tmp here, which is hidden: the sandbox itself needs nothing of it within.
    desk.shell("cat >/dev/null")
    desk.send("one")
    assert outcomes(desk.once()) == ["done"]
    program(desk.base / "bin", REFUSES)
    desk.send("two")
    [end] = [event for event in desk.once() if event.event is EventName.TURN_ENDED]
    assert end.fields["outcome"] == "unavailable"
    assert "setting up uid map: Permission denied" in str(end.fields["detail"])
    assert "sysctl" in str(end.fields["detail"])
    pause = desk.place().state.pause.read()
    assert pause is not None
    assert pause.reason == "unavailable"
    program(desk.base / "bin", f'#!/bin/sh\nexec {real} "$@"\n')
    desk.resume()
    assert outcomes(desk.once()) == ["done"]
    assert not desk.place().state.dead_letters.all()


def test_a_turn_is_preceded_by_another_proof_where_sandbox_program_or_kernel_changed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_here("bwrap")
    refuses, agent, folder = desk.base / "refuses", desk.base / "agent", desk.base / "bin"
    script = f'[ ! -e {refuses} ] || {{ echo "bwrap: no more" >&2; exit 1; }}\nexec {shutil.which("bwrap")} "$@"'
    monkeypatch.setenv("PATH", program(folder, f"#!/bin/sh\n{script}\n"))
    agent.write_text("#!/bin/sh\n")
    agent.chmod(0o755)
    desk.configure(command=[str(agent)])
    place = desk.place()
    confinement, launch = place.confinement(place.runtime()), program_of(place).launch
    assert confinement is not None
    assert launch is not None
    turn = place.folder.turns / "turn"
    turn.mkdir(parents=True)
    own = TurnPlaces(turn, turn / "outbox", turn / "tmp")
    own.outbox.mkdir()

    def start(by: Confinement) -> None:
        asyncio.run(by.around(launch, own))

    start(confinement)
    refuses.touch()
    # As long as nothing has changed it is believed.
    start(confinement)
    for path in (folder / "bwrap", agent):
        found, text, one = path.stat(), path.read_text(), copy.copy(confinement)
        path.write_text(f"{text}# newer\n")
        for _ in range(2):
            # What did not hold is not believed the next time, either.
            with pytest.raises(Unconfined, match="bwrap: no more"):
                start(one)
        path.write_text(text)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    start(confinement)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "here", "99.0", "#1", "x86_64")))
    with pytest.raises(Unconfined, match="bwrap: no more"):
        start(confinement)


@pytest.mark.parametrize(
    ("sandbox", "said"),
    [
        ({"kind": "bwrap", "network": "model"}, "cannot tell one host from another"),
        ({"kind": "landlock", "network": "model"}, "cannot tell one host from another"),
        ({"kind": "command"}, "command is empty"),
        ({"kind": "command", "command": ["/nonexistent/box"]}, "cannot be found"),
        (
            {"kind": "command", "command": ["./box"]},
            "/coder/box does the confining, and lies where the agent may write",
        ),
        ({"kind": "command", "command": ["../link"]}, "/coder/box does the confining, and lies where the agent may"),
        ({"kind": "command", "command": ["./env"]}, "/coder/env does the confining, and lies where the agent may"),
        ({"kind": "command", "command": ["way/env"]}, "/coder/way does the confining, and lies where the agent may"),
        ({"kind": "command", "command": ["../round"]}, "/coder/env does the confining, and lies where the agent may"),
        ({"kind": "command", "command": ["way/../bin/env"]}, "/coder/way does the confining, and lies where the agent"),
        ({"kind": "command", "command": ["../env"]}, "can be read"),
        ({"kind": "srt", "network": "on"}, "srt"),
        ({"kind": "bwrap", "write": ["no such folder"]}, "is not there"),
        ({"kind": "bwrap", "read": [".agent-mailer/templates"]}, "is hidden from every turn"),
        ({"kind": "bwrap", "write": ["link"]}, "is a link in a folder that the agent writes"),
    ],
)
def test_what_cannot_be_held_is_refused_with_words(desk: Desk, sandbox: Mapping[str, object], said: str) -> None:
    runs_here("bwrap")
    (desk.state / "templates").mkdir()
    (desk.workdir / "link").symlink_to(desk.base)
    (desk.workdir / "box").write_text(LIAR)
    (desk.workdir / "box").chmod(0o755)
    for link, where in {"link": "coder/box", "coder/env": "/usr/bin/env", "coder/way": "/usr/bin"}.items():
        (desk.base / link).symlink_to(where)
    (desk.base / "round").symlink_to("coder/../coder/env")
    (desk.base / "env").symlink_to("/usr/bin/env")
    desk.configure(sandbox=dict(sandbox))
    proof = proved(desk)
    assert not proof.holds
    assert said in proof.text
    assert proof.fix


@LONG
def test_srt_says_which_network_it_can_hold(desk: Desk) -> None:
    runs_here("srt")
    desk.configure(sandbox={"kind": "srt", "network": "on"})
    desk.send()
    said = refused(desk, watch(desk))
    assert "network is model" in said
    assert "fix: agent-mailer config set sandbox.network model" in said


def test_what_a_proof_left_that_was_killed_is_removed_by_a_later_one(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_here("bwrap")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    left, new, elsewhere = (
        temporary / "agent-mailer-proof-left",
        temporary / "agent-mailer-proof-new",
        tmp_path / "kept",
    )
    for folder in (left, new, elsewhere):
        (folder / "canary").mkdir(parents=True)
    link = temporary / "agent-mailer-proof-link"
    link.symlink_to(elsewhere)
    for old in (left, elsewhere):
        os.utime(old, (1, 1))
    os.utime(link, (1, 1), follow_symlinks=False)
    assert proved(desk).holds
    assert {path.name for path in temporary.iterdir()} == {new.name, link.name}
    assert (elsewhere / "canary").is_dir()


def test_of_a_prefix_of_ones_own_that_confines_nothing_what_may_only_be_read_is_found_written(desk: Desk) -> None:
    opened = desk.base / "opened"
    opened.mkdir()
    desk.configure(sandbox={"kind": "command", "command": ["/usr/bin/env"], "read": [str(opened)]})
    wrong = proved(desk).wrong
    assert f"{opened} can be written" in wrong, wrong


@LONG
def test_a_prefix_of_ones_own_is_proved_like_the_others(desk: Desk) -> None:
    desk.configure(sandbox={"kind": "command", "command": ["/usr/bin/env"]})
    desk.send()
    assert "can be read" in refused(desk, watch(desk))


@LONG
def test_doctor_shows_the_proof_and_status_the_kind(desk: Desk) -> None:
    runs_here("bwrap")

    def say(*words: str) -> str:
        argv = [*CLI, *words, "--workdir", str(desk.workdir)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60).stdout

    assert "bwrap holds: " in say("doctor"), "without being asked for each check"
    assert "sandbox  bwrap" in say("status")
    desk.configure(sandbox={"kind": "off"})
    assert "off: a turn may touch all that you may touch" in say("doctor")
    assert "sandbox  off\n" in say("status")


@pytest.mark.parametrize(("said", "chosen"), [("", Kind.BWRAP), ("bwrap", None), ("off", Kind.BWRAP)])
def test_a_sandbox_that_was_chosen_and_does_not_hold_stands_in_the_file_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, said: str, chosen: Kind | None
) -> None:
    desk.settings.pop("sandbox")
    desk.configure()
    monkeypatch.setenv("PATH", "/nonexistent")
    if said:
        monkeypatch.setenv("AGENT_MAILER_SANDBOX", said)
    with pytest.raises(ConfigFault, match="there is no bwrap"):
        settle_sandbox(desk.place(), {}, chosen)
    written = tomllib.loads((desk.state / "config.toml").read_text())
    assert written["sandbox"] == {"kind": "bwrap"}, "no turn is started without what was asked for"


@LONG
def test_init_tries_and_writes_what_holds(tmp_path: Path) -> None:
    runs_here("bwrap")
    workdir = tmp_path / "agent"
    workdir.mkdir()
    words = ["init", "--no-interactive", "--workdir", str(workdir), "--address", "coder", "--runtime", "command"]
    words += ["--command", "true", "--permission-mode", "acceptEdits"]

    def init(*more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, *words, *more],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    config = workdir / ".agent-mailer" / "config.toml"
    assert "sandbox   bwrap, tried here" in init().stdout
    assert 'kind = "bwrap"' in config.read_text()
    assert "sandbox" not in init().stdout, "what stands there is the user's"
    init("--sandbox", "off")
    assert 'kind = "off"' in config.read_text()
    config.write_text(config.read_text().replace('kind = "off"', "").replace("sandbox = {}", ""))
    said = init(PATH="/nonexistent").stdout
    assert "sandbox   off: " in said, "Landlock would leave the agent no new file in its own folder"
    assert "no bwrap in PATH" in said
    assert "--sandbox landlock" in said
    done = init("--sandbox", "bwrap", PATH="/nonexistent")
    assert done.returncode == 78
    assert "there is no bwrap" in done.stderr
    assert 'kind = "bwrap"' in config.read_text(), "no turn is started without what was asked for"


def test_a_program_that_was_never_used_here_gets_its_folders_and_the_sandbox_holds(tmp_path: Path, home: Path) -> None:
    runs_here("bwrap")
    (tmp_path / ".git").mkdir()
    words = ("--address", "coder", "--runtime", "acp", "--agent", "opencode", "--permission-mode", "plan")
    made = type_in(tmp_path, "init", *words, "--sandbox", "bwrap")
    assert (made.status, "bwrap, tried here" in made.out) == (0, True), made
    assert [*home.rglob("opencode")]
