"""An agent at a broker, its watcher, and the person who operates it from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from tests.broker_desk import BrokerDesk, Person
from tests.desk import until
from tests.integration.test_amp_watch import AmpDesk

from agent_mailer.remote.port import Report


class RemoteDesk(AmpDesk):
    def __init__(self, base: Path, broker: BrokerDesk, person: Person) -> None:
        super().__init__(base, broker, person)
        self.configure(command_output="jsonl", guards={"turns_per_hour": 0})

    def seen(self) -> dict[str, Any]:
        """How the agent is shown to its operator."""
        listed = self.broker.call("GET", "/admin/watchers", headers=self.person.login)
        [found] = [one for one in listed if one["agent_id"] == self.coder["id"]]
        return dict(found)

    def report(self) -> Report:
        """The last report; an empty one where there is none."""
        found = self.seen()["report"]
        return Report("", "") if found is None else msgspec.convert(found, Report)

    def ask(self, verb: str, *targets: str, expected: int = 201, **form: Any) -> int:
        """The number of the request."""
        path, form = f"/admin/agents/{self.coder['id']}/requests", {"verb": verb, "targets": targets, **form}
        number: int = self.broker.call("POST", path, expected, json=form, headers=self.person.login)["number"]
        return number

    def requests(self) -> dict[int, dict[str, Any]]:
        path = f"/admin/agents/{self.coder['id']}/requests"
        listed = self.broker.call("GET", path, headers=self.person.login)
        return {one["number"]: one for one in listed}

    def became(self, number: int) -> tuple[str, list[str]]:
        """What came of that request, once its watcher has told."""
        until(lambda: self.requests()[number]["answered_at"], f"the answer to request {number}")
        found = self.requests()[number]
        return found["state"], found["lines"]
