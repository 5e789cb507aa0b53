"""`service` where there is no systemd, and what it refuses before it asks any."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.typed import type_in

from agent_mailer.cli.service import uninstall as take_out
from agent_mailer.cli.service.status import show
from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, MailerError, UnavailableFault
from agent_mailer.events import EventName
from agent_mailer.service import manager
from agent_mailer.service.folder import Units, units_folder
from agent_mailer.service.install import plan, uninstall
from agent_mailer.service.unit import Instance
from agent_mailer.teams.running import dismiss

VERBS = ("install", "start", "stop", "restart", "status")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def with_systemctl(folder: Path, script: str) -> dict[str, str]:
    """An environment in which `systemctl` is a shell script."""
    folder.mkdir()
    program = folder / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def installed(home: Path, workdir: Path, name: str = "coder", program: str = "/opt/agent-mailer") -> Instance:
    instance = Instance(name, workdir, Path(program), ("/bin",))
    Units(units_folder({"XDG_CONFIG_HOME": str(home / ".config")}), Disk()).write(instance)
    return instance


@pytest.mark.parametrize("verb", VERBS)
def test_without_systemd_every_command_says_the_way_out(desk: Desk, home: Path, verb: str) -> None:
    installed(home, desk.workdir)
    done = type_in(desk.workdir, "service", verb, env={"PATH": "/nowhere"})
    assert (done.status, done.out) == (69, "")
    assert done.err == (
        "error: this system has no systemd (systemctl is not in PATH)\n"
        "  fix: run agent-mailer watch --no-interactive, under whatever starts services here\n"
    )


@pytest.mark.parametrize("systemd", [None, "echo 'Failed to connect to bus' >&2; exit 1", "echo Version=252"])
def test_where_no_service_is_installed_there_is_nothing_to_uninstall(desk: Desk, systemd: str | None) -> None:
    env = with_systemctl(desk.base / "bin", systemd) if systemd else {"PATH": "/nowhere"}
    done = type_in(desk.workdir, "service", "uninstall", "--all", env=env)
    assert (done.status, done.out, done.err) == (0, "no services here: nothing to uninstall\n", "")


@pytest.mark.parametrize("words", [("--all",), ("coder",), ()])
def test_without_systemd_the_files_of_a_service_are_taken_out_and_nothing_else(
    desk: Desk,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr(manager, "BOOTED", desk.base / "no systemd")
    monkeypatch.setenv("PATH", "/nowhere")
    instance, folder = installed(home, desk.workdir), home / ".config" / "systemd" / "user"
    enabled, other = (folder / "default.target.wants" / name for name in (instance.unit, "other.service"))
    enabled.parent.mkdir()
    enabled.symlink_to(folder / "agent-mailer@.service")
    other.symlink_to("/usr/lib/systemd/user/other.service")
    take_out([word for word in words if word == "coder"], desk.workdir, every="--all" in words)
    said = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in said} == {"removed"}, "none is said to be stopped"
    assert [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()] == [other]


def test_where_systemd_is_out_of_reach_or_a_watcher_runs_no_service_is_taken_out(
    desk: Desk, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, units = installed(home, desk.workdir), Units(home / ".config" / "systemd" / "user", Disk())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(manager, "BOOTED", desk.base)
    with pytest.raises(UnavailableFault):
        take_out(every=True)
    monkeypatch.setattr(manager, "BOOTED", desk.base / "no systemd")
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher runs")
        with pytest.raises(BusyFault, match=rf"a watcher \(pid {watcher.pid}\) runs in") as refused:
            take_out(every=True)
    assert refused.value.fix == f"kill {watcher.pid}, then uninstall again"
    assert units.named(instance.name) is not None


@pytest.mark.parametrize("words", [("service", "logs"), ("doctor", "--as-service"), ("service", "uninstall")])
def test_where_nothing_can_be_installed_nobody_is_told_to_install_it(desk: Desk, words: tuple[str, ...]) -> None:
    done = type_in(desk.workdir, *words, env={"PATH": "/nowhere"})
    assert (done.status, "service install" in done.err) == (69, False)
    assert "  fix: run agent-mailer watch --no-interactive" in done.err


def test_a_manager_that_cannot_be_reached_is_named_with_the_way_out(desk: Desk) -> None:
    silent = with_systemctl(desk.base / "bin", "echo 'Failed to connect to bus: No medium found' >&2; exit 1")
    done = type_in(desk.workdir, "service", "install", env=silent)
    assert done.status == 69
    booted = Path("/run/systemd/system").is_dir()
    assert ("cannot be reached: Failed to connect to bus" if booted else "was not started by systemd") in done.err
    assert ("loginctl enable-linger" if booted else "agent-mailer watch --no-interactive") in done.err


def test_a_service_that_is_not_there_is_named_with_those_that_are(desk: Desk, home: Path) -> None:
    installed(home, desk.workdir)
    other = type_in(desk.workdir, "service", "logs", "planner")
    assert (other.status, other.err) == (
        2,
        "error: there is no service planner (there are: coder)\n  fix: agent-mailer service install\n",
    )
    reached = with_systemctl(desk.base / "bin", "echo Version=252")
    here = type_in(desk.workdir, "doctor", "--as-service", "-C", desk.base, "--json", env=reached)
    assert here.status == 78
    assert here.json["error"]["code"] == "not_installed"


def test_one_workdir_has_one_name_and_one_name_one_workdir(desk: Desk, home: Path) -> None:
    reached = with_systemctl(desk.base / "bin", "echo Version=252")
    installed(home, desk.base, "planner")
    taken = type_in(desk.workdir, "service", "install", "--name", "planner", env=reached)
    assert (taken.status, taken.err) == (
        2,
        f"error: the service planner is that of {desk.base}\n"
        "  fix: give another name: agent-mailer service install --name NAME\n",
    )
    installed(home, desk.workdir, "coder")
    twice = type_in(desk.workdir, "service", "install", "--name", "coder2", env=reached)
    assert twice.status == 2
    assert f"{desk.workdir} is installed as coder\n" in twice.err
    odd = type_in(desk.workdir, "service", "install", "--name", "a/b", env=reached)
    assert odd.status == 2


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("said", [None, True, False])
def test_what_is_installed_anew_is_as_it_is_said_and_else_as_it_was(
    desk: Desk, tmp_path: Path, before: bool, said: bool | None
) -> None:
    units = Units(tmp_path / "units", Disk())
    kept, given = ((Path(path),) if there else () for path, there in (("/opt/kept", before), ("/opt/given", said)))
    units.write(Instance("mine", desk.workdir, Path("/opt/agent-mailer"), ("/bin",), (), kept, allow_sudo=before))
    found = plan(desk.place(), units, name=None, more=None if said is None else given, allow_sudo=said)
    assert found.name == "mine"
    assert (found.allow_sudo, found.more) == ((before, kept) if said is None else (said, given))


@pytest.mark.parametrize("named", ["agent", "{program}", "bin/agent", "./bin/agent"])
@pytest.mark.parametrize("runtime", ["claude", "codex", "command"])
def test_no_other_program_is_looked_for_beside_an_agent_program_that_is_named_by_its_path(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, runtime: str, named: str
) -> None:
    """The agent may write there: what it lays beside itself as `git` would run outside of its sandbox."""
    program = (desk.workdir if named.endswith("bin/agent") else desk.base / "project") / "bin" / "agent"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    word = named.format(program=program)
    desk.configure(runtime=runtime, **{"command": [word]} if runtime == "command" else {f"{runtime}_command": word})
    found = plan(desk.place(), Units(desk.base / "units", Disk()), name=None, more=None, allow_sudo=None)
    assert program in found.needs
    assert (str(program.parent) in found.path) is (named == "agent")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("fails", ["", "coder", "tester", "*"])
def test_a_service_that_does_not_run_is_told_by_the_exit_status_too(
    tmp_path: Path, fails: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    script = f'case "$*" in *@{fails}.service) echo ActiveState=failed ;; *) echo ActiveState=active ;; esac'
    reached = manager.UserManager(with_systemctl(tmp_path / "bin", script))
    one, other = (Instance(name, tmp_path, Path("/bin/sh"), ("/bin",)) for name in ("coder", "tester"))
    for instances in ([one], [one, other]):
        status = int(any(fails in ("*", instance.name) for instance in instances))
        assert show(reached, instances, as_json=as_json) == status
        said = capsys.readouterr().out
        assert json.loads(said)["healthy"] == (not status) if as_json else ("not running: failed" in said) == status


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_what_systemd_refuses_is_an_error_however_the_service_stands(desk: Desk, home: Path, verb: str) -> None:
    installed(home, desk.workdir, program="/bin/sh")
    script = 'case "$2" in show) echo Version=252; echo ActiveState=active ;; *) echo it is busy; exit 1 ;; esac'
    done = type_in(desk.workdir, "service", verb, env=with_systemctl(desk.base / "bin", script))
    assert done.status == 1, done
    assert f"{verb} agent-mailer@coder.service: it is busy" in done.err
    assert "coder: active" in done.out


def test_a_watcher_that_runs_by_hand_is_not_pushed_aside(desk: Desk, home: Path) -> None:
    reached = with_systemctl(desk.base / "bin", "echo MainPID=0")
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher runs")
        done = type_in(desk.workdir, "service", "install", env=reached)
    assert done.status == 75
    assert done.err == (
        f"error: a watcher (pid {watcher.pid}) runs in {desk.workdir}\n  fix: kill {watcher.pid}, then install again\n"
    )
    assert not (home / ".config" / "systemd").exists()


MANAGER = """
echo "$*: $(cd "$XDG_CONFIG_HOME/systemd/user" 2>/dev/null && echo agent-mailer@*.service.d)" >>"$0.calls"
case "$2" in
show) echo Version=252; echo MainPID=0 ;;
start) cp "$0.said" "$(sed -n 's/^StandardOutput=file://p' "$XDG_RUNTIME_DIR/systemd/user/$3")" ;;
esac
! grep -qx "$2" "$0.refuses"
"""
"""A service manager that puts down what it was told and what was installed by then. What a trial says, and which verbs
it refuses, lies beside it.
"""


@pytest.mark.parametrize(
    ("failed", "refused", "status", "told"),
    [
        ("", "", 0, ["start", "enable", "restart"]),
        ("mailbox", "", 77, ["start"]),
        ("", "enable", 1, ["start", "enable"]),
    ],
)
def test_nothing_is_written_before_it_verifies_and_what_is_refused_is_taken_back(
    desk: Desk, home: Path, failed: str, refused: str, status: int, told: list[str]
) -> None:
    reached = with_systemctl(desk.base / "bin", MANAGER)
    runtime, program, units = desk.base / "run", desk.base / "bin" / "systemctl", home / ".config" / "systemd" / "user"
    runtime.mkdir()
    units.mkdir(parents=True)
    (units / "agent-mailer@.service").write_text("[Service]\n# mine\n")
    check = {"name": failed, "looked_at": "x", "result": "failed", "text": "refused", "fix": "mend", "exit_code": 77}
    checks = [check] if failed else []
    report = {"workdir": str(desk.workdir), "ok": not failed, "exit_code": 0, "checks": checks}
    program.with_name("systemctl.said").write_text(json.dumps(report))
    program.with_name("systemctl.refuses").write_text(f"{refused}\n")
    env = {**reached, "XDG_RUNTIME_DIR": str(runtime), "XDG_CONFIG_HOME": str(home / ".config")}
    done = type_in(desk.workdir, "service", "install", env=env)
    assert done.status == status, done
    calls = [line.split(maxsplit=1)[1] for line in program.with_name("systemctl.calls").read_text().splitlines()]
    trial = next(number for number, call in enumerate(calls) if call.startswith("start "))
    assert all(call.endswith(": agent-mailer@*.service.d") for call in calls[: trial + 1]), "the trial comes first"
    verbs = [call.split()[0].rstrip(":") for call in calls]
    assert [verb for verb in verbs if verb in ("start", "enable", "restart")] == told
    if not status:
        assert (units / "agent-mailer@coder.service.d").is_dir()
        return
    assert verbs[-1] == "daemon-reload", "systemd knows that it is gone"
    assert not list(units.glob("agent-mailer*coder*"))
    assert (units / "agent-mailer@.service").read_text() == "[Service]\n# mine\n"
    assert "service install" in done.err if failed else "systemctl --user enable" in done.err


@pytest.mark.parametrize(
    ("ends", "seconds", "why"),
    [("sleep 600", 0.3, "no end within 10 minutes"), ("echo it is busy; exit 1", 600.0, "it is busy")],
)
def test_a_service_that_was_not_stopped_is_not_taken_away(
    desk: Desk, home: Path, monkeypatch: pytest.MonkeyPatch, ends: str, seconds: float, why: str
) -> None:
    monkeypatch.setattr(manager, "JOB_SECONDS", seconds)
    script = f'case "$2" in disable) {ends} ;; *) echo Version=252 ;; esac'
    instance, units = installed(home, desk.workdir), Units(home / ".config" / "systemd" / "user", Disk())
    reached = manager.UserManager(with_systemctl(desk.base / "bin", script))
    with pytest.raises(MailerError, match=f"disable --now {instance.unit}: {why}"):
        list(uninstall(reached, units, [instance]))
    assert units.named(instance.name) is not None


def test_who_is_in_the_team_no_more_is_no_service_any_more(
    desk: Desk, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, units = installed(home, desk.workdir), Units(home / ".config" / "systemd" / "user", Disk())
    reached = with_systemctl(desk.base / "bin", 'echo "$*" >>"$0.calls"; echo Version=252')
    monkeypatch.setenv("PATH", reached["PATH"])
    assert list(dismiss(desk.base, {"coder": desk.place()}))
    assert f"--user disable --now {instance.unit}\n" in (desk.base / "bin" / "systemctl.calls").read_text()
    assert units.named(instance.name) is None


GONE = {"MONITOR_SERVICE_RESULT": "exit-code", "MONITOR_EXIT_STATUS": "77"}


def test_a_watcher_that_is_gone_is_told_by_every_way_and_not_while_one_runs(desk: Desk) -> None:
    told = desk.base / "told"
    command = ["/bin/sh", "-c", f'echo "$AGENT_MAILER_NOTICE_TEXT: $AGENT_MAILER_NOTICE_WHY" >>{told}']
    desk.configure(notify={"command": command, "address": "user"})
    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher runs")
        assert "nobody is told" in type_in(desk.workdir, "service", "gone", env=GONE).out
    assert not told.exists()
    assert type_in(desk.workdir, "service", "gone", env=GONE).out == "command: told\nmail: told\n"
    why = "systemd says exit-code, it ended with 77"
    once = f"coder has no watcher any more: its service has failed, and is not started again: {why}\n"
    assert told.read_text() == once
    [mail] = desk.inbox()
    assert (mail.subject, why in mail.body) == ("coder: gone", True)
    desk.once()
    assert (told.read_text(), len(desk.inbox())) == (once, 1), "the next watcher has nothing left to tell"


@pytest.mark.parametrize("reached", [True, False])
def test_of_a_watcher_that_is_gone_the_next_one_tells_what_could_not_be_told_and_nothing_else(
    desk: Desk, reached: bool
) -> None:
    """By a way that takes the same word twice, as mail does not."""
    told, up = desk.base / "told", desk.base / "up"
    command = ["/bin/sh", "-c", f'test -e {up} && echo "$AGENT_MAILER_NOTICE_KIND" >>{told}']
    desk.configure(notify={"command": command, "address": "user"})
    if reached:
        up.touch()
    first = "told" if reached else "it ended with 1"
    assert type_in(desk.workdir, "service", "gone", env=GONE).out == f"command: {first}\nmail: told\n"
    up.touch()
    desk.once()
    assert (told.read_text(), len(desk.inbox())) == ("gone\n", 1), "each way once, whatever became of the other"
