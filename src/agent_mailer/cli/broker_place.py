"""Options that the broker's commands share, and the database that they lead to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from agent_mailer.errors import ConfigFault

if TYPE_CHECKING:
    from agent_mailer.broker.data import Data

T = TypeVar("T")

DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The broker's data folder. Default: in your own data folder."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="An SQLAlchemy URL. Default: broker.db in the data folder."),
]

_EXTRA = (
    *("fastapi", "sqlalchemy", "aiosqlite", "alembic", "argon2", "uvicorn", "sse_starlette"),
    *("jwt", "limits", "markdown_it", "nh3", "python_multipart"),
)


def require_extra() -> None:
    """Raises ConfigFault where the broker's packages are missing."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigFault(
            "no_extra",
            f"the broker needs packages that are not installed ({', '.join(missing)})",
            "pip install 'agent-mailer[broker]'",
        )


def data_of(folder: Path | None, database: str | None) -> Data:
    """What the options and the environment mean. Raises ConfigFault."""
    require_extra()
    from agent_mailer.broker.data import find_data

    return find_data(folder, database, os.environ)
