"""Which hook a command of the broker's operator means: it may end one for good."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, create_engine

from agent_mailer.broker.agents.rows import NewAgent, insert_agent
from agent_mailer.broker.hooks.rows import NewHook, add_hook
from agent_mailer.broker.tables import metadata
from agent_mailer.broker.users.rows import add_user
from agent_mailer.cli.broker.hook import _chosen
from agent_mailer.errors import MailerError
from agent_mailer.outside.event import Source

DOMAIN = "amp.localhost"
HOOKS = ["ci.bob", "ci-2.bo", "ci.bo"]
"""Each but the last begins as another does, or has its name in it; they are listed in this order."""


def made(connection: Connection) -> dict[str, str]:
    """The hooks' ids by their names."""
    found: dict[str, str] = {}
    users = {name: add_user(connection, name, "hash", None, invited=False) for name in ("bob", "bo")}
    for whole in HOOKS:
        name, _, user = whole.partition(".")
        address = f"{name}@{user}.{DOMAIN}"
        insert_agent(connection, users[user].id, NewAgent(name, address, "coder", "", system_prompt=""))
        new = NewHook(name, Source.GENERIC, address)
        found[whole] = add_hook(connection, users[user].id, user, DOMAIN, new).id
    return found


def test_a_hook_is_named_whole_or_by_its_id_and_never_by_how_its_name_begins() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        for whole, hook_id in made(connection).items():
            for typed in (whole, hook_id, hook_id[:-1]):
                owner, hook = _chosen(connection, typed)
                assert (owner.username, hook.id) == (whole.partition(".")[2], hook_id), typed
        for typed in ("ci", "ci.b", "ci-2", "ci.bobby", ".bo"):
            with pytest.raises(MailerError, match="there is no hook"):
                _chosen(connection, typed)
    engine.dispose()
