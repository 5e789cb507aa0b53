"""How this program came onto the machine, and the command that puts more of it, or a newer one, into the same place."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "agent-mailer"


def command_for(*extras: str) -> str:
    """The command that installs this program with `extras` (`broker`, `postgres`, …) where it is installed now.

    What it names is where this one came from (PEP 610), never a name in an index that may be somebody else's.
    """
    source, editable = _source()
    wanted = f"{source}[{','.join(extras)}]" if extras else source
    return " ".join((*_installer(editable=editable), shlex.quote(wanted)))


def newer_command(*extras: str) -> str:
    """The same for a newer version: from a checkout, one that was brought up to date."""
    source, _ = _source()
    pull = f"git -C {shlex.quote(source)} pull && " if Path(source).joinpath(".git").exists() else ""
    return pull + command_for(*extras)


def _source() -> tuple[str, bool]:
    """A folder, a file, `NAME @ URL`, or the name where it came from an index; and whether the folder itself is run."""
    # A watcher that never names the command is to be a megabyte and a half smaller.
    from importlib import metadata

    try:
        kept = metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        kept = None
    if kept is None:
        # Without a record it came from an index under this name, or is run from its own source.
        top = Path(__file__).resolve().parents[2]
        return (str(top), True) if (top / "pyproject.toml").is_file() else (NAME, False)
    record = json.loads(kept)
    url = record["url"]
    if urlsplit(url).scheme == "file":
        return unquote(urlsplit(url).path), bool(record.get("dir_info", {}).get("editable"))
    vcs = record.get("vcs_info", {}).get("vcs")
    return f"{NAME} @ {vcs}+{url}" if vcs else f"{NAME} @ {url}", False


def _installer(*, editable: bool) -> Sequence[str]:
    environment = Path(sys.prefix)
    flag = ("--editable",) if editable else ()
    if (environment / "pipx_metadata.json").is_file():
        return ("pipx", "install", "--force", *flag)
    if (environment / "uv-receipt.toml").is_file():
        return ("uv", "tool", "install", "--force", *flag)
    return (shlex.quote(sys.executable), "-m", "pip", "install", *(flag or ("--upgrade",)))
