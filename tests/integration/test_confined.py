"""A hostile agent within each kind of sandbox that runs here: every door is tried by a real turn of the real engine."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.desk import Desk, outcomes, until
from tests.e2e.clis import srt_binary
from tests.sizes import LONG

from agent_mailer.checks.agent import program_of
from agent_mailer.confine import enter_landlock
from agent_mailer.confine.port import TurnPlaces
from agent_mailer.events import EventName
from agent_mailer.outcomes import Exit
from agent_mailer.process.holder import PROMPT_FILE, start_behind_gate
from agent_mailer.process.tree import end_tree
from agent_mailer.runtimes.port import Launch
from agent_mailer.state.workdirs import known_workdirs

HOSTILE = Path(__file__).with_name("hostile_agent.py")


def has_bwrap() -> str:
    """Why bubblewrap starts nothing here; empty where it does."""
    program = shutil.which("bwrap")
    if program is None:
        return "there is no bwrap"
    done = subprocess.run([program, "--ro-bind", "/", "/", "true"], capture_output=True, text=True, check=False)
    return done.stderr


def lacks_srt() -> str:
    """What srt needs and is not there; it must be found in PATH, as by a person who installed it."""
    found = str(srt_binary().parent)
    if found not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += os.pathsep + found
    missing = [name for name in ("socat", "rg") if shutil.which(name) is None]
    return has_bwrap() or (f"there is no {missing[0]}, which srt needs" if missing else "")


def runs_here(kind: str) -> str:
    """`kind`, or the test is skipped; with CI set it fails."""
    match kind:
        case "bwrap":
            why = has_bwrap()
        case "srt":
            why = lacks_srt()
        case _:
            why = "" if enter_landlock.abi() >= enter_landlock.OLDEST_ABI else "no Landlock"
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
    return kind


@pytest.fixture(autouse=True)
def chosen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    monkeypatch.setenv("PATH", os.environ["PATH"])


@pytest.fixture(params=["bwrap", "landlock", pytest.param("srt", marks=LONG)])
def kind(request: pytest.FixtureRequest) -> str:
    return runs_here(request.param)


class Scene(Desk):
    """`coder` is hostile. Its home has a key, and another agent of the same user works beside it."""

    def __init__(self, base: Path, kind: str) -> None:
        super().__init__(base)
        self.kind = kind
        self.home = Path(os.environ["HOME"])
        self.project = base / "project with blanks"
        self.other = base / "other"
        for folder in (self.home / ".ssh", self.home / ".mozilla", self.project, self.other / ".agent-mailer"):
            folder.mkdir(parents=True)
        for secret in (self.home / ".ssh" / "id", self.home / ".mozilla" / "logins", self.other / "plan"):
            secret.write_text("SECRET\n")
        known_workdirs(self.disk).remember(self.other)
        self.configure(
            permission_mode="acceptEdits",
            project_dir=str(self.project),
            api_key="SECRET",
            sandbox={"kind": kind, **({"network": "model"} if kind == "srt" else {})},
            command=[sys.executable, "-I", str(HOSTILE), str(base / "doors.json"), str(self.project / "told.json")],
        )

    def try_doors(self, **doors: tuple[str, object]) -> dict[str, str]:
        """What a turn makes of each: empty where it could be done, else the kernel's reason."""
        (self.base / "doors.json").write_text(json.dumps(doors))
        self.configure(sandbox={**self.settings["sandbox"], "read": [str(self.base / "doors.json"), str(HOSTILE)]})
        self.send()
        ended = self.once()
        assert outcomes(ended) == ["done"], "\n".join(str(e.fields) for e in ended)
        told: dict[str, str] = json.loads((self.project / "told.json").read_text())
        return told


@pytest.fixture
def scene(tmp_path: Path, kind: str) -> Scene:
    return Scene(tmp_path, kind)


def test_nothing_of_the_person_of_others_and_of_ours_can_be_read(scene: Scene) -> None:
    waiting = scene.send("not for coder", to="planner")
    mail = next(scene.root.rglob(f"*{waiting}*"))
    told = scene.try_doors(
        key=("read", f"{scene.home}/.ssh/id"),
        browser=("read", f"{scene.home}/.mozilla/logins"),
        broker_key=("read", f"{scene.state}/config.toml"),
        log=("read", f"{scene.state}/log.jsonl"),
        mail=("read", str(mail)),
        other=("read", f"{scene.other}/plan"),
        state=("names", os.environ["XDG_STATE_HOME"] + "/agent-mailer"),
        own=("read", "$AGENT_MAILER_TURN_DIR/message.md"),
        project=("read", f"{scene.base}/doors.json"),
    )
    assert told.pop("own") == ""
    assert told.pop("project") == ""
    assert "" not in told.values(), told


def test_nothing_beyond_the_project_can_be_changed(scene: Scene) -> None:
    (scene.workdir / "src").mkdir()
    (scene.state / "templates").mkdir()
    told = scene.try_doors(
        outside=("make", f"{scene.base}/made"),
        other=("make", f"{scene.other}/made"),
        emptied=("empty", f"{scene.other}/plan"),
        state=("make", f"{scene.state}/made"),
        forged=("make", f"{scene.state}/turns/made"),
        template=("make", f"{scene.state}/templates/fresh.md"),
        moved=("rename", [str(scene.state), f"{scene.workdir}/src/away"]),
        linked=("rename", [f"{scene.state}/memory", f"{scene.workdir}/src/away"]),
        record=("append", "$AGENT_MAILER_TURN_DIR/turn.json"),
        exited=("make", "$AGENT_MAILER_TURN_DIR/exit"),
        outbox=("rename", ["$AGENT_MAILER_TURN_DIR/outbox", "$AGENT_MAILER_TURN_DIR/away"]),
        program=("append", str(HOSTILE)),
        here=("make", f"{scene.workdir}/src/made"),
        project=("make", f"{scene.project}/made"),
        temporary=("make", "$TMPDIR/made"),
        staged=("make", "$AGENT_MAILER_TURN_DIR/outbox/odd"),
        powers=("run", "grep -q '^CapEff:.0*$' /proc/self/status"),
    )
    for allowed in ("here", "project", "temporary", "staged", "powers"):
        assert told.pop(allowed) == "", allowed
    # What seems to be made below /tmp is in the turn's own under bubblewrap, and with srt in what is hidden: there is
    # nothing of it outside.
    for folder in (scene.base, scene.other, scene.state, scene.state / "turns"):
        assert not (folder / "made").exists()
    assert (scene.other / "plan").read_text() == "SECRET\n"
    seeming = ("outside", "other", *(("state", "forged", "exited") if scene.kind == "srt" else ()))
    assert "" not in {name: why for name, why in told.items() if name not in seeming}.values(), told
    assert (scene.project / "made").exists()
    assert not list((scene.state / "turns").glob("*/tmp")), "it goes with the turn"


@contextmanager
def terminal() -> Iterator[str]:
    """One of the person's, at which something was typed."""
    keyboard, screen = pty.openpty()
    try:
        os.write(keyboard, b"SECRET\n")
        yield os.ttyname(screen)
    finally:
        os.close(keyboard)
        os.close(screen)


def test_no_process_no_terminal_and_no_socket_of_the_person_can_be_reached(scene: Scene) -> None:
    with (
        socket.socket(socket.AF_UNIX) as docker,
        socket.socket(socket.AF_UNIX) as session_bus,
        socket.socket() as loopback,
        terminal() as typed_at,
    ):
        name = f"agent-mailer-test-{os.getpid()}"
        session_bus.bind(f"\0{name}")
        session_bus.listen()
        place = (
            "/run/agent-mailer-test.sock" if os.access("/run", os.W_OK) else str(scene.home / ".ssh" / "docker.sock")
        )
        Path(place).unlink(missing_ok=True)
        docker.bind(place)
        docker.listen()
        loopback.bind(("127.0.0.1", 0))
        loopback.listen()
        try:
            told = scene.try_doors(
                docker=("unix", place),
                session_bus=("unix", f"@{name}"),
                watcher=("signal", os.getpid()),
                environment=("read", f"/proc/{os.getpid()}/environ"),
                memory=("read", f"/proc/{os.getpid()}/mem"),
                kernel=("append", "/proc/sys/kernel/domainname"),
                terminal=("read", typed_at),
                loopback=("inet", loopback.getsockname()[1]),
            )
        finally:
            Path(place).unlink()
    assert (told.pop("loopback") == "") is (scene.kind != "srt"), "srt: by its proxy alone"
    assert "" not in told.values(), told


def test_the_kernels_keys_of_the_person_cannot_be_read(scene: Scene) -> None:
    """Tickets and passwords, which every process of a session inherits."""
    if enter_landlock.abi() < enter_landlock.SCOPES_ABI and scene.kind != "landlock":
        pytest.skip("namespaces hold them back from Linux 6.12 on")
    number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    add = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    # A session of our own: what is put into it goes with us.
    if libc.syscall(number, 1, None) < 0 or libc.syscall(add, b"user", b"agent-mailer-test", b"SECRET", 6, -3) < 0:
        pytest.skip("this kernel keeps no keys for us")
    told = scene.try_doors(key=("key", "agent-mailer-test"), past_all_filters=("uring", ""))
    assert set(told.values()) == {"[Errno 38] Function not implemented"}


def test_without_a_sandbox_the_same_doors_are_open(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "off")
    told = scene.try_doors(
        key=("read", f"{scene.home}/.ssh/id"),
        broker_key=("read", f"{scene.state}/config.toml"),
        state=("make", f"{scene.state}/turns/made"),
        watcher=("signal", os.getpid()),
        other=("make", f"{scene.other}/made"),
    )
    assert set(told.values()) == {""}, told


def test_the_mail_tools_work_within(scene: Scene) -> None:
    scene.send("the word is MARZIPAN")
    words = " ".join([sys.executable, "-m", "agent_mailer.cli.app", "mail"])
    scene.shell(f"cat >/dev/null; {words} read | grep -q MARZIPAN && {words} reply --body marzipan")
    assert outcomes(scene.once()) == ["done"]
    assert [message.body.strip() for message in scene.inbox()] == ["marzipan"]


@LONG
def test_the_prompt_names_files_that_can_be_read_and_the_tool_alone_to_write(scene: Scene) -> None:
    (scene.state / "memory").mkdir()
    (scene.state / "memory" / "global.md").write_text("what is known\n")
    scene.shell(f"cat >'{scene.project}/prompt'; cat \"$AGENT_MAILER_TURN_DIR/note-global.md\" >'{scene.project}/note'")
    scene.send()
    assert outcomes(scene.once()) == ["done"]
    prompt = (scene.project / "prompt").read_text()
    assert f"{scene.state}/memory" not in prompt
    assert "note-global.md" in prompt
    assert "the files can only be read" in prompt
    assert (scene.project / "note").read_text() == "what is known\n"


def test_an_agent_is_asked_to_end_before_it_is_killed(scene: Scene) -> None:
    script = f"cd '{scene.project}'; trap 'echo asked >end; exit 3' TERM; echo >ready; sleep 60 & wait"
    place, turn_id = scene.place(), "20000101T000000-0000cafe"
    folder = scene.state / "turns" / turn_id
    own = TurnPlaces(folder, folder / "outbox", folder / "tmp")
    own.outbox.mkdir(parents=True)
    (folder / PROMPT_FILE).touch()
    confinement = place.confinement(place.runtime())
    assert confinement is not None

    async def run() -> Exit:
        launch = Launch(("/bin/sh", "-c", script), dict(os.environ), scene.workdir)
        within = await confinement.around(launch, own)
        gated = start_behind_gate(within.argv, env=within.env, cwd=within.cwd, turn_dir=folder, turn_id=turn_id)
        with gated:
            running = gated.release()
        await asyncio.to_thread(until, (scene.project / "ready").exists, "the agent")
        report = await end_tree(turn_id, running.identity)
        await running.wait_ended()
        assert report.survivors == ()
        return running.exit()

    assert asyncio.run(run()) == Exit(status=3)
    assert (scene.project / "end").read_text() == "asked\n"


@LONG
def test_a_prefix_that_lets_root_say_what_the_kernel_runs_is_found_out(tmp_path: Path) -> None:
    """In namespaces of its own, too: no privilege is needed for that."""
    if os.geteuid() != 0:
        pytest.skip("this user is not root")
    scene = Scene(tmp_path, runs_here("bwrap"))
    scene.configure(sandbox={"kind": "command", "command": ["bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--"]})
    place = scene.place()
    confinement = place.confinement(place.runtime())
    assert confinement is not None
    proof = asyncio.run(confinement.prove(program_of(place).launch))
    assert [text for text in proof.wrong if "what the kernel runs outside" in text], proof.wrong


@LONG
def test_what_an_agent_leaves_in_a_folder_of_its_path_does_not_hold_its_next_turn(tmp_path: Path) -> None:
    """srt looks for node and bubblewrap itself, outside of what it is about to make."""
    scene = Scene(tmp_path, runs_here("srt"))
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("node", "bwrap", "socat"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/ran-outside\nexit 1\n")
        (tools / name).chmod(0o755)
    scene.configure(
        sandbox={**scene.settings["sandbox"], "write": [str(tools)]},
        env={"set": {"PATH": f"{tools}:{os.environ['PATH']}"}},
    )
    assert scene.try_doors(still=("run", "case $PATH in *tools:*) ;; *) exit 1;; esac"))["still"] == ""
    assert not (tmp_path / "ran-outside").exists()


def test_a_commit_works_and_hooks_and_settings_stay(scene: Scene) -> None:
    _repository(scene.project)
    told = _commit(scene, scene.project)
    assert told["commit"] == ""
    assert _git(scene.project, "log", "--format=%s") == "by the agent\nfirst\n"
    if scene.kind != "landlock":
        assert told["hook"]
        assert told["config"]
        moved = scene.try_doors(away=("rename", [f"{scene.project}/.git", f"{scene.project}/away"]))
        assert moved["away"]


@LONG
def test_a_worktree_whose_git_folder_is_elsewhere_takes_a_commit(scene: Scene) -> None:
    main = scene.base / "main"
    main.mkdir()
    _repository(main)
    shutil.rmtree(scene.project)
    _git(main, "worktree", "add", "-q", str(scene.project), "-b", "work")
    told = _commit(scene, main)
    assert told["commit"] == ""
    assert _git(main, "log", "--format=%s", "work") == "by the agent\nfirst\n"
    if scene.kind != "landlock":
        assert told["hook"]


def test_what_git_obeys_stays_as_far_as_the_kind_can_and_what_does_not_is_told(scene: Scene) -> None:
    """In the project's own repository, its worktree and its submodule: `git status` of a person runs none of it."""
    part = scene.base / "part"
    part.mkdir()
    _repository(part)
    _repository(scene.project)
    _git(scene.project, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(part), "lib/part")
    _git(scene.project, "commit", "-qm", "part")
    _git(scene.project, "worktree", "add", "-q", str(scene.base / "beside"))
    _git(scene.project, "config", "extensions.worktreeConfig", "true")
    git, module = scene.project / ".git", scene.project / ".git" / "modules" / "lib" / "part"
    before = sorted(git.iterdir())
    who = "-c user.name=x -c user.email=x@example.org"
    told = scene.try_doors(
        common=("make", f"{git}/commondir"),
        commonly=("append", f"{git}/commondir"),
        worktree=("make", f"{git}/config.worktree"),
        worktrees=("append", f"{git}/config.worktree"),
        beside=("append", f"{git}/worktrees/beside/commondir"),
        module=("append", f"{module}/config"),
        hook=("make", f"{module}/hooks/post-commit"),
        pointer=("append", f"{scene.project}/lib/part/.git"),
        replaced=("rename", [f"{scene.project}/lib/part/.git", f"{scene.project}/lib/away"]),
        commit=("run", f"git -C '{scene.project}/lib/part' {who} commit -q --allow-empty -m within"),
        around=("run", f"git -C '{scene.project}' {who} commit -qam around"),
    )
    if scene.kind != "landlock":
        assert told.pop("commit") == ""
        assert told.pop("around") == ""
        assert _git(scene.project / "lib" / "part", "log", "-1", "--format=%s") == "within\n"
        assert "" not in told.values(), told
        assert not scene.log(EventName.INSTRUCTIONS_CHANGED)
        # For the time of the turn alone, but for an empty file that says nothing.
        assert set(git.iterdir()) - set(before) <= {git / "config.worktree"}
    else:
        [event] = scene.log(EventName.INSTRUCTIONS_CHANGED)
        assert "/.git/commondir" in str(event["file"])


def test_what_keeps_git_stays_until_the_last_turn_beside_has_ended(tmp_path: Path) -> None:
    scene = Scene(tmp_path, runs_here("bwrap"))
    _repository(scene.project)
    common = scene.project / ".git" / "commondir"
    started, go = scene.project / "started", scene.project / "go"
    slow = f"touch '{started}'; until [ -e '{go}' ]; do sleep 0.05; done"
    scene.configure(max_parallel_turns=2)
    scene.shell(f"[ $AGENT_MAILER_THREAD_ID = quick ] || {{ {slow}; }}")
    with scene.watching():
        scene.send(thread="slow")
        until(started.exists, "the slow turn")
        scene.send(thread="quick")
        until(lambda: scene.log(EventName.TURN_SETTLED), "the quick turn's end")
        assert common.exists()
        go.touch()
        until(lambda: len(scene.log(EventName.TURN_SETTLED)) == 2, "the slow turn's end")
        assert not common.exists()


def test_the_pointer_of_a_worktree_that_is_the_workdir_stays(scene: Scene) -> None:
    main = scene.base / "main"
    main.mkdir()
    _repository(main)
    _git(main, "worktree", "add", "-q", str(scene.base / "beside"))
    (scene.base / "beside" / ".git").rename(scene.workdir / ".git")
    _git(scene.workdir, "worktree", "repair")
    told = scene.try_doors(
        pointer=("append", f"{scene.workdir}/.git"),
        moved=("rename", [f"{scene.workdir}/.git", f"{scene.workdir}/away"]),
    )
    assert "" not in told.values(), told


@LONG
def test_a_pointer_that_an_agent_wrote_opens_nothing(scene: Scene) -> None:
    """It says that the git folder of the project is the home folder of its person."""
    (scene.home / "worktrees" / "x").mkdir(parents=True)
    (scene.project / ".git").write_text(f"gitdir: {scene.home}/.ssh\n")
    told = scene.try_doors(key=("read", f"{scene.home}/.ssh/id"), made=("make", f"{scene.home}/.ssh/made"))
    assert "" not in told.values()


def _repository(folder: Path) -> None:
    _git(folder, "init", "-q", "-b", "main")
    (folder / "file").write_text("one\n")
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", "first")


def _git(folder: Path, *words: str) -> str:
    names = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", *words], cwd=folder, env={**os.environ, **names}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _commit(scene: Scene, tree: Path) -> dict[str, str]:
    (scene.project / "file").write_text("two\n")
    git = f"git -C '{scene.project}' -c user.name=x -c user.email=x@example.org"
    return scene.try_doors(
        commit=("run", f"{git} commit -qam 'by the agent'"),
        hook=("make", f"{tree}/.git/hooks/post-commit"),
        config=("append", f"{tree}/.git/config"),
    )


@LONG
def test_a_push_by_a_named_agent_of_ssh_reaches_its_socket_and_no_other(scene: Scene, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as named:
        path = scene.home / "agent.sock"
        named.bind(str(path))
        named.listen()
        (scene.home / ".ssh" / "known_hosts").write_text("example.org ssh-ed25519 AAAA\n")
        if scene.kind == "landlock":
            assert scene.try_doors(agent=("unix", str(path)))["agent"]
        scene.configure(env={"set": {"SSH_AUTH_SOCK": str(path)}})
        if scene.kind == "srt" and os.geteuid() == 0:
            scene.send()
            [end] = [event for event in scene.once() if event.event is EventName.TURN_ENDED]
            assert "does not hold root where an ssh-agent is named" in str(end.fields["detail"])
            return
        told = scene.try_doors(
            agent=("unix", str(path)),
            hosts=("read", f"{scene.home}/.ssh/known_hosts"),
            key=("read", f"{scene.home}/.ssh/id"),
        )
    assert told["agent"] == ""
    assert told["hosts"] == ""
    assert told["key"]


@LONG
def test_caches_of_packages_are_the_agents_own(scene: Scene) -> None:
    told = scene.try_doors(
        yours=("make", f"{scene.home}/.cache/pip-poison"),
        own=("make", "$XDG_CACHE_HOME/made"),
        npm=("make", "$npm_config_cache.made"),
        cargo=("make", "$CARGO_HOME.made"),
        go=("make", "$GOMODCACHE.made"),
    )
    assert told["own"] == ""
    assert not (scene.home / ".cache" / "pip-poison").exists()
    made = {path.name for path in (scene.home / ".cache" / "agent-mailer").glob("*/*made")}
    assert made == {"made", "npm.made", "cargo.made", "go-mod.made"}
