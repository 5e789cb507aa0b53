"""Which hook a command of the broker's operator means: it may end one for good. And what it does there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, insert, select

from agent_mailer.broker.agents.rows import NewAgent, insert_agent
from agent_mailer.broker.data import find_data, make_database
from agent_mailer.broker.hooks.rows import NewHook, add_hook
from agent_mailer.broker.hooks.tables import hook_deliveries
from agent_mailer.broker.tables import metadata
from agent_mailer.broker.users.rows import add_user
from agent_mailer.cli.broker.database import look, work_with
from agent_mailer.cli.broker.hook import _chosen, _hooks, add, retry, roll
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.outside.event import Source
from agent_mailer.outside.items import Outcome

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


def test_where_its_secret_cannot_be_shown_no_hook_is_made_or_given_another(tmp_path: Path) -> None:
    """The callers would be refused from then on, and nobody could tell them a secret that counts."""
    data = find_data(tmp_path, None, {})
    make_database(data)
    work_with(data, lambda store: store.write(made))
    before = look(data, _hooks)
    assert [hook.version for _, hook in before] == [1] * len(HOOKS)
    with pytest.raises(ConfigFault, match="that is not known here"):
        roll("ci.bob", folder=tmp_path)
    with pytest.raises(ConfigFault, match="that is not known here"):
        add("new", "bob", to=f"ci@bob.{DOMAIN}", folder=tmp_path)
    assert look(data, _hooks) == before


def failed(connection: Connection, how_many: Mapping[str, int]) -> None:
    """So many deliveries of each of these hooks, each of which came before the one with the number below."""
    said: dict[str, object] = dict.fromkeys(("event", "origin", "item", "reason"), "x")
    said |= {"outcome": Outcome.FAILED.value, "occurrences": 0, "message_ids": [], "held": "{}", "tries": 3}
    for which, many in how_many.items():
        owner, hook = _chosen(connection, which)
        names = [(f"{number} of {which}", f"{many - number:06}") for number in range(many)]
        rows = [said | {"id": name, "delivery_id": name, "digest": name, "at": at} for name, at in names]
        whose = insert(hook_deliveries).values(hook_id=hook.id, user_id=owner.id)
        connection.execute(whose, rows)


def due(connection: Connection) -> list[str]:
    return list(connection.execute(select(hook_deliveries.c.id).where(hook_deliveries.c.due_ms == 0)).scalars())


def test_all_that_failed_by_a_hook_is_tried_again_however_much_that_is_and_no_other_hooks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After days in which nobody could be written to."""
    many, data = 10_001, find_data(tmp_path, None, {})
    make_database(data)
    work_with(data, lambda store: store.write(made))
    retry("ci.bob", folder=tmp_path)
    assert "Nothing failed" in capsys.readouterr().out
    work_with(data, lambda store: store.write(lambda c: failed(c, {"ci.bob": many, "ci.bo": 1})))
    retry("ci.bob", f"{many - 1} of", folder=tmp_path)
    assert look(data, due) == [f"{many - 1} of ci.bob"], "the oldest"
    retry("ci.bob", folder=tmp_path)
    assert f"{many} will be tried again" in capsys.readouterr().out
    assert sorted(look(data, due)) == sorted(f"{number} of ci.bob" for number in range(many))
