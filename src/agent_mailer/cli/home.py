"""Whose folders these are: every command needs a home, and one that is the same wherever it is typed."""

from __future__ import annotations

import os
import pwd
from collections.abc import MutableMapping

from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable

_FOLDERS = ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


def settle_home(environ: MutableMapping[str, str]) -> None:
    """Before anything asks for it. What is empty counts as not set, as does a relative XDG folder (XDG says so).

    Else what is trusted would be looked for in another place than it was kept in, and a sandbox would hide the keys of
    a home that is nobody's. Raises ConfigFault where there is none.
    """
    for name in ("HOME", *_FOLDERS):
        said = environ.get(name)
        if said is not None and not said.startswith("/") and (name != "HOME" or not said):
            del environ[name]
    if (home := environ.get("HOME")) is not None:
        if not home.startswith("/"):
            raise _none(f"HOME is {printable(home)}, which is another folder wherever a command is typed")
        return
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise _none(f"HOME is not set, and the system knows no user {os.getuid()}") from None
    if not home.startswith("/"):
        raise _none(f"HOME is not set, and the system names no home of user {os.getuid()}")


def _none(why: str) -> ConfigFault:
    return ConfigFault("no_home", f"there is no home: {why}", "export HOME=/a/folder/of/yours")
