"""TAB: each argument of each command offers something, takes a file, or is known to be a number or a free text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from agent_mailer.cli.app import app
from agent_mailer.cli.offers import BY_NAME, offers_of, takes_files

TEXTS = {
    *("subject", "body", "text", "reason", "role", "description", "blocked", "grep", "labels", "label", "dedupe_key"),
    *("address", "agent_name", "agent_id", "api_key", "broker_url", "database", "at", "host", "host_name", "domain"),
    *("user", "username", "password", "broker", "invite", "key", "hook", "delivery", "event", "action", "branch", "to"),
    *("repository", "api", "agent", "trusted_proxy", "older_than", "value", "words", "name"),
    *("session", "callback", "callback_host", "reply"),
}
"""What only the person knows, or only a broker that TAB does not ask."""


def walked(command: Any, path: str, ctx: typer.Context) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "list_commands"):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            yield from walked(inner, f"{path} {name}".strip(), typer.Context(inner, info_name=name, parent=ctx))
        return
    for param in command.params:
        if not getattr(param, "is_flag", False):
            yield path, param


def of_the_program() -> list[tuple[str, Any]]:
    root = get_command(app)
    return list(walked(root, "", typer.Context(root, info_name="agent-mailer")))


def test_every_argument_has_a_rule() -> None:
    lacking = [
        f"{path} {param.name}"
        for path, param in of_the_program()
        if param._custom_shell_complete is None
        and offers_of(path, param) is None
        and not takes_files(param)
        and param.type_descriptor.annotation not in (int, float)
        and param.name not in TEXTS
    ]
    assert not lacking, "say what TAB offers: autocompletion=, cli/offers.py, or TEXTS here"


def test_no_rule_is_for_what_there_is_not() -> None:
    used = {
        name
        for path, param in of_the_program()
        for name in BY_NAME
        if offers_of(path, param) is BY_NAME[name] and name.split(" ")[-1] == param.name
    }
    assert set(BY_NAME) <= used
