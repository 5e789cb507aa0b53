"""One server asked over HTTP: what is said of it holds no key."""

from __future__ import annotations

import asyncio
import socket

import pytest

from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.http import Lost, Peer


def test_a_server_that_is_not_there_is_told_without_the_key_in_its_url() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        peer = Peer(f"http://ann:s3cret@127.0.0.1:{port}/mcp", {})
        with pytest.raises(Lost, match=f"127.0.0.1:{port}") as lost:
            asyncio.run(peer.ask("GET", seconds=10.0))
    assert not lost.value.in_doubt
    for said in (peer.shown, lost.value.message, lost.value.fix):
        assert "s3cret" not in said


def test_a_url_that_is_none_is_told_without_its_key() -> None:
    with pytest.raises(ConfigFault) as bad:
        Peer("ftp://ann:s3cret@host", {})
    assert "s3cret" not in bad.value.message
