"""The service under a real systemd of a user: ready, watched, restarted, handed over, stopped, held to its memory."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from tests.desk import Desk, until
from tests.service_desk import Service
from tests.sizes import LONG
from tests.user_manager import PROGRAM, UserManager, user_manager

from agent_mailer.events import EventName
from agent_mailer.process.tree import members

pytestmark = LONG


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    with user_manager() as found:
        yield found


@pytest.fixture
def service(manager: UserManager, request: pytest.FixtureRequest) -> Iterator[Service]:
    name = f"s{len(list(manager.base.iterdir()))}"
    made = Service(manager, name)
    yield made
    made.end()


def test_it_is_ready_when_lock_and_state_are_its_own_and_says_what_it_does(service: Service) -> None:
    service.begin_turn()
    holder = json.loads((service.desk.state / ".lock").read_text())
    assert str(holder["process"]["pid"]) == service.show("MainPID")
    until(lambda: service.show("StatusText") == "1 turn running: t1", "it says what runs")
    service.end_turn()
    until(lambda: service.show("StatusText") == "waiting for mail", "it says that it waits")
    service.manager.mailer("pause", cwd=service.desk.workdir)
    until(lambda: service.show("StatusText") == "waiting for mail; paused (by hand)", "it says that it is paused")


def test_it_is_ready_before_its_broker_answers(service: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        service.desk.configure(broker_url=url, api_key="amk_none", agent_id="a1", address="coder@acme", mailbox="amp")
        service.start()
        until(lambda: "waiting for mail; in trouble: " in service.show("StatusText"), "it says what is wrong")


@pytest.mark.parametrize("blow", ["STOP", "KILL", "restart"])
def test_whatever_ends_the_watcher_the_turn_goes_on_and_runs_once(service: Service, blow: str) -> None:
    """SIGSTOP is a loop that stands still: systemd's watchdog ends it."""
    words = service.desk.base / "stderr"
    watchdog = ["WatchdogSec=2s"] if blow == "STOP" else []
    service.settings("RestartSec=100ms", f"StandardError=append:{words}", *watchdog)
    service.begin_turn()
    first = service.show("MainPID")
    if blow == "restart":
        service.manager.systemctl("restart", service.unit)
    else:
        service.manager.systemctl("kill", "--kill-whom=main", f"--signal={blow}", service.unit)
    until(lambda: service.desk.log(EventName.TURN_ADOPTED), "another watcher adopts the turn")
    until(lambda: service.show("ActiveState") == "active", "the service is ready again")
    assert service.show("MainPID") != first
    restarts = int(service.show("NRestarts"))
    assert restarts == 0 if blow == "restart" else restarts >= 1
    # What the watchdog ends says where it stood.
    assert ("Fatal Python error: Aborted" in words.read_text()) == (blow == "STOP")
    until(lambda: service.show("StatusText") == "1 turn running: t1", "it says what goes on")
    service.end_turn()
    assert service.runs() == 1
    assert len(service.desk.inbox()) == 1


def test_a_stop_leaves_nobody_and_gets_the_time_that_it_needs(service: Service) -> None:
    service.settings("TimeoutStopSec=2s")
    service.desk.configure(stop_grace=3)
    turn_id = service.begin_turn()
    assert members(turn_id, None)
    service.manager.systemctl("stop", service.unit)
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    assert not members(turn_id, None)
    assert service.desk.log(EventName.TURN_ENDED)[0]["outcome"] == "interrupted"


@pytest.mark.parametrize(("status", "state"), [(77, "failed"), (78, "failed"), (75, "activating")])
def test_only_hopeless_ends_are_not_tried_again(service: Service, status: int, state: str) -> None:
    service.settings("RestartSec=1h", "ExecStart=", f"ExecStart=/bin/sh -c 'exit {status}'")
    service.manager.systemctl("daemon-reload")
    service.manager.systemctl("start", service.unit)
    until(lambda: service.show("ActiveState") != "deactivating", "systemd has decided")
    assert (service.show("ActiveState"), service.show("ExecMainStatus")) == (state, str(status))


def test_a_configuration_that_is_wrong_is_told_and_not_tried_again(service: Service) -> None:
    (service.desk.state / "config.toml").chmod(0o644)
    service.manager.systemctl("daemon-reload")
    why = f"{service.name}: not running: exit status 78: configuration, permissions or identity are wrong\n"
    fix = f"  fix: agent-mailer verify -C {service.desk.workdir}, then agent-mailer service start {service.name}\n"
    begun = service.manager.mailer("service", "start", service.name)
    assert (begun.returncode, begun.stderr) == (1, f"error: {why}{fix}")
    told = service.manager.mailer("service", "status", service.name)
    assert told.returncode == 1
    assert f"{why}{fix}" in told.stdout


def test_one_that_does_not_start_holds_up_no_other(service: Service) -> None:
    other = Service(service.manager, f"{service.name}-gone")
    other.desk.workdir.rename(other.desk.base / "elsewhere")
    service.manager.systemctl("daemon-reload")
    begun = service.manager.mailer("service", "start", other.name, service.name)
    service.manager.systemctl("stop", other.unit)
    assert (begun.returncode, begun.stdout) == (1, f"{service.name}: active (running): waiting for mail\n")
    assert f"error: {other.name}: {other.desk.workdir} has vanished\n" in begun.stderr


def test_a_turn_is_held_to_its_memory(service: Service) -> None:
    service.desk.configure(turn_memory="64M", max_retries=0)
    service.desk.shell(
        "tail -n 1 /proc/self/cgroup >group; head -c 200M /dev/zero | tail -c 150M >/dev/null; echo done"
    )
    service.start()
    service.desk.send("please")
    until(lambda: service.desk.log(EventName.TURN_ENDED), "the turn has ended")
    [ended] = service.desk.log(EventName.TURN_ENDED)
    group = (service.desk.workdir / "group").read_text()
    assert f"agent-mailer-turn-{ended['turn_id']}.scope" in group
    told = service.desk.log(EventName.TURN_UNLIMITED)
    if service.manager.limits_memory():
        assert (ended["outcome"], told) == ("crashed", [])
    else:
        assert ended["outcome"] == "done"
        assert "memory controller" in told[0]["why"]


def test_where_all_of_the_user_ends_a_turn_is_interrupted_and_not_crashed(service: Service) -> None:
    """As at a logout: the watcher ends before the scopes of its turns."""
    service.desk.configure(turn_memory="64M", stop_grace=1)
    service.begin_turn()
    service.manager.systemctl("stop", "app.slice")
    assert service.show("ActiveState") == "inactive"
    assert service.desk.log(EventName.TURN_ENDED)[0]["outcome"] == "interrupted"


def test_without_a_scope_a_turn_runs_all_the_same(service: Service) -> None:
    service.settings("Environment=XDG_RUNTIME_DIR=/nowhere")
    service.desk.configure(turn_memory="64M")
    service.start()
    service.desk.send("please")
    until(lambda: service.desk.log(EventName.MESSAGE_DONE), "the message is done")
    assert [told["why"] for told in service.desk.log(EventName.TURN_UNLIMITED)] == [
        "the user's systemd gave no scope for the turn"
    ]


def test_an_agent_that_only_a_shell_finds_is_installed_runs_and_is_missed(manager: UserManager) -> None:
    """As with nvm: the agent is a script for `node`, and both are in a folder that systemd does not know."""
    base = manager.base / "nvm"
    folder = base / "versions" / "node" / "v22" / "bin"
    folder.mkdir(parents=True)
    desk = Desk(base)
    desk.configure(command=["my-agent"])
    node, agent = folder / "node", folder / "my-agent"
    node.write_text('#!/bin/sh\nexec /bin/sh "$@"\n')
    agent.write_text(
        "#!/usr/bin/env node\necho PATH=$PATH; grep NoNewPrivs /proc/self/status; env | grep NOTIFY_ || :\n"
    )
    for program in (node, agent):
        program.chmod(0o755)

    refused = manager.mailer("service", "install", cwd=desk.workdir)
    assert refused.returncode == 69
    assert "my-agent is not in PATH" in refused.stderr
    assert not list(manager.units.glob("agent-mailer@coder*"))

    path = f"{folder}:{manager.env['PATH']}"
    done = manager.mailer("service", "install", cwd=desk.workdir, PATH=path)
    assert done.returncode == 0, done.stderr
    assert "started   agent-mailer@coder.service: waiting for mail" in done.stdout
    assert "loginctl enable-linger" in done.stderr
    assert manager.mailer("service", "status", cwd=desk.workdir).returncode == 0
    desk.send("please")
    until(desk.inbox, "the agent answers")
    said = desk.inbox()[0].body
    assert f"PATH={PROGRAM.parent}:{PROGRAM.parent}:{folder}:/usr/local/bin" in said
    assert said.split()[-2:] == ["NoNewPrivs:", "1"]

    again = manager.mailer("service", "install", "--allow-sudo", "--path", "/opt", cwd=desk.workdir, PATH=path)
    assert again.returncode == 0, again.stderr
    desk.send("again")
    until(lambda: len(desk.inbox()) == 2, "the agent answers")
    assert desk.inbox()[1].body.split()[-2:] == ["NoNewPrivs:", "0"]

    mended = manager.mailer("service", "install", "--no-start", cwd=desk.workdir, PATH=path)
    assert mended.stdout.count("unchanged ") == 3, mended.stdout
    agent.unlink()
    missed = manager.mailer("service", "status", "--json", cwd=desk.workdir)
    assert missed.returncode == 1
    [problem] = json.loads(missed.stdout)["services"][0]["problems"]
    assert problem["text"] == f"{agent} has vanished"
    assert problem["fix"] == f"agent-mailer service install -C {desk.workdir}"
    checked = manager.mailer("doctor", "--as-service", "--json", cwd=desk.workdir, PATH=path)
    assert checked.returncode == 1
    failed = {check["name"] for check in json.loads(checked.stdout)["checks"] if check["result"] == "failed"}
    assert failed == {"service", "runtime"}

    assert manager.mailer("service", "uninstall", "coder").returncode == 0
    assert manager.show("agent-mailer@coder.service", "ActiveState") == "inactive"
    assert not list(manager.units.glob("agent-mailer@coder*"))
    assert not list(manager.units.glob("*.wants/*coder*"))


def test_a_watcher_that_is_gone_is_told_once_whatever_its_configuration_says_by_then(manager: UserManager) -> None:
    base = manager.base / "gone"
    base.mkdir()
    desk, told = Desk(base), base / "told"
    script = f'echo "$AGENT_MAILER_NOTICE_KIND $AGENT_MAILER_NOTICE_WHY" >>{told}'
    desk.configure(notify={"command": ["/bin/sh", "-c", script]})
    done = manager.mailer("service", "install", "--name", "gone", cwd=desk.workdir)
    assert done.returncode == 0, done.stderr
    assert not told.exists(), "a trial that is over is no watcher that is gone"
    assert manager.mailer("service", "restart", "gone").returncode == 0
    (desk.state / "config.toml").write_text("what an agent may have written = = 1")
    manager.mailer("service", "restart", "gone")
    until(told.exists, "the operator is told")
    until(lambda: manager.show("agent-mailer-gone@gone.service", "ActiveState") == "inactive", "it has ended")
    assert told.read_text() == "gone systemd says exit-code, it ended with 78\n"
    [event] = desk.log(EventName.WATCH_GONE)
    assert event["why"] == "systemd says exit-code, it ended with 78"
    assert manager.mailer("service", "uninstall", "gone").returncode == 0
    assert not list(manager.units.glob("*@gone*"))


def test_what_works_only_in_the_shell_is_refused_and_leaves_nothing(manager: UserManager) -> None:
    base = manager.base / "shell"
    base.mkdir()
    desk = Desk(base)
    del desk.settings["maildir_root"]
    desk.configure()
    before = sorted(manager.units.rglob("*"))
    done = manager.mailer("service", "install", "--name", "shell", cwd=desk.workdir, AM_ROOT=str(desk.root))
    assert done.returncode == 78
    assert "error: in the service's surroundings:" in done.stderr
    assert sorted(manager.units.rglob("*")) == before
    assert not list((manager.runtime_dir / "systemd" / "user").iterdir())


def test_an_installation_that_systemd_refuses_is_taken_back(manager: UserManager) -> None:
    base = manager.base / "refused"
    base.mkdir()
    desk = Desk(base)
    in_the_way = manager.units / "default.target.wants"
    in_the_way.write_text("")
    before = sorted(manager.units.rglob("*"))
    done = manager.mailer("service", "install", "--name", "refused", cwd=desk.workdir)
    in_the_way.unlink()
    assert done.returncode == 1
    assert "error: systemctl --user enable agent-mailer@refused.service: " in done.stderr
    assert [path for path in sorted(manager.units.rglob("*")) if path != in_the_way] == [
        path for path in before if path != in_the_way
    ]
