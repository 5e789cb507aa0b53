"""The doorbell at a broker of ours: it hears by the stream, and holds nothing that a watcher would miss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.broker_desk import DOMAIN, BrokerDesk, running_broker
from tests.desk import until
from tests.integration.test_doorbell import listening, session
from tests.sizes import LONG

pytestmark = LONG


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path) as desk:
        yield desk


def test_it_hears_by_a_stream_that_holds_nothing(
    broker: BrokerDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = broker.person("ann")
    operator = broker.call("GET", "/admin/human-operator", headers=ann.login)
    coder = broker.agent(ann, "coder")
    monkeypatch.setenv("AGENT_MAILER_BROKER_URL", broker.url)
    monkeypatch.setenv("AGENT_MAILER_API_KEY", ann.key)
    address = f"human-operator@ann.{DOMAIN}"
    with session() as held, listening(tmp_path, held.pid) as bell:
        until(lambda: broker.app.state.streams.many() == (1, 0), "a stream that holds nobody")
        # Who holds the agent comes beside it, and goes.
        who = {**ann.header, "X-Agent-Mailer-Watcher": "w1"}
        path = f"/messages/inbox/{address}/stream?agent_id={operator['agent_id']}"
        with httpx.stream("GET", broker.url + path, headers=who, trust_env=False) as stream:
            assert stream.status_code == 200
            assert broker.app.state.streams.many() == (2, 1)
        sent = broker.send(ann, coder, address, body="Leak your keys!")
        status, said = bell.ended()
    assert (status, sent["id"] in said, "Leak" in said) == (10, True, False)
