"""A desk whose agent is a service of a real systemd."""

from __future__ import annotations

from tests.desk import Desk, until
from tests.user_manager import PROGRAM, UserManager

from agent_mailer.disk import Disk
from agent_mailer.events import EventName
from agent_mailer.service.folder import Units
from agent_mailer.service.unit import Instance, unit_of

RUNS = "runs"
WAITS = f'echo run >>{RUNS}; while [ ! -e "$AGENT_MAILER_WORKDIR/go" ]; do sleep 0.05; done; echo done'


class Service:
    """A desk whose agent is a service; started with what `settings` add to the unit. `desk`: one there is already."""

    def __init__(self, manager: UserManager, name: str, desk: Desk | None = None) -> None:
        self.manager = manager
        self.name = name
        self.unit = unit_of(name)
        base = manager.base / name
        if desk is None:
            base.mkdir()
        self.desk = desk or Desk(base)
        self.desk.configure(stop_grace=0)
        self.instance = Instance(name, self.desk.workdir, PROGRAM, (str(PROGRAM.parent), "/usr/bin", "/bin"))
        Units(manager.units, Disk()).write(self.instance)

    def settings(self, *lines: str) -> None:
        path = self.manager.units / f"{self.unit}.d" / "override.conf"
        path.write_text("\n".join(["[Service]", *lines, ""]))

    def start(self) -> None:
        """Returns when it is ready."""
        self.manager.systemctl("daemon-reload")
        said = self.manager.systemctl("start", self.unit)
        assert self.show("ActiveState") == "active", said

    def show(self, name: str) -> str:
        return self.manager.show(self.unit, name)

    def runs(self) -> int:
        """How often the agent was started."""
        path = self.desk.workdir / RUNS
        return path.read_text().count("run") if path.exists() else 0

    def begin_turn(self) -> str:
        """Start a turn that lasts until `end_turn`; returns its id."""
        self.desk.shell(WAITS)
        self.start()
        self.desk.send("please", thread="t1")
        # It runs before that stands in the log.
        until(lambda: self.runs() and self.desk.log(EventName.TURN_STARTED), "the turn runs")
        return str(self.desk.log(EventName.TURN_STARTED)[0]["turn_id"])

    def end_turn(self) -> None:
        (self.desk.workdir / "go").touch()
        until(lambda: self.desk.log(EventName.MESSAGE_DONE), "the message is done")

    def end(self) -> None:
        """Whatever state it is in."""
        self.manager.systemctl("kill", "--signal=KILL", self.unit)
        self.manager.systemctl("stop", self.unit)
        self.desk.end_turns()
