"""The systemd unit of an agent as text: the shipped template, what is one agent's own, and one run of both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec

from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.names import printable

TEMPLATE = "agent-mailer@.service"
DROP_IN = "10-workdir.conf"
"""Read before `override.conf`, which `systemctl --user edit` writes: the user has the last word."""

ONESHOT_SECONDS = 180
_LONGEST_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_HEAD = """\
# Written by `agent-mailer service install`, and written anew by the next one.
# Yours: systemctl --user edit {unit}
"""

# What the template's hardening says, taken back: any of these alone would keep a turn from another user's rights.
_ALLOW_SUDO = """\
NoNewPrivileges=no
RestrictRealtime=no
RestrictAddressFamilies=
SystemCallFilter=
"""


class Instance(msgspec.Struct, frozen=True):
    """One agent as a service.

    `program` is agent-mailer; `path` the folders of the service's PATH, `more` those of them that were asked for by
    hand; `needs` what was found at the installation: the agent program and what it runs on. All paths are absolute.
    """

    name: str
    workdir: Path
    program: Path
    path: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    more: tuple[Path, ...] = ()
    allow_sudo: bool = False

    @property
    def unit(self) -> str:
        return unit_of(self.name)


def unit_of(name: str) -> str:
    return f"agent-mailer@{name}.service"


def gone_of(name: str) -> str:
    """The unit that tells somebody when the agent's own has failed for good."""
    return f"agent-mailer-gone@{name}.service"


def check_name(name: str) -> str:
    """The name itself. Raises UsageFault for what cannot name an instance."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageFault(
            "bad_service_name",
            f"{printable(name, 60)!r} cannot name a service: use letters, digits, _ . and -",
            "agent-mailer service install --name NAME",
        )
    return name


def name_for(agent: str) -> str:
    """The instance's name for an agent's name or address; what stands before the @ names it. Raises UsageFault."""
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", agent.partition("@")[0]).strip("-._")
    return check_name(word[:_LONGEST_NAME] or agent)


@cache
def shipped_template() -> str:
    """The template as shipped: beside the package in a wheel, at the top of the tree in an editable install."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "packaging", here.parents[3] / "packaging"):
        path = folder / TEMPLATE
        if path.is_file():
            return path.read_text("utf-8")
    raise ConfigFault("no_unit", f"{TEMPLATE} is missing from this installation", "reinstall agent-mailer")


def drop_in(instance: Instance) -> str:
    """What is the agent's own. Raises ConfigFault for a path that no unit can hold."""
    lines = [
        _HEAD.format(unit=instance.unit).rstrip(),
        "[Unit]",
        f"OnFailure={gone_of(instance.name)}",
        "[Service]",
        f"WorkingDirectory={_plain(instance.workdir)}",
        "ExecStart=",
        f"ExecStart={_program(instance.program)} watch --no-interactive",
        f'Environment="PATH={_quoted(":".join(instance.path))}"',
    ]
    if instance.allow_sudo:
        lines += ["", "# --allow-sudo", _ALLOW_SUDO.rstrip()]
    lines += ["", "# Found at the installation; `agent-mailer service status` looks whether they are there still."]
    lines += ["[X-AgentMailer]", *(f"Needs={_plain(path)}" for path in instance.needs)]
    lines += [f"Path={_plain(path)}" for path in instance.more]
    return "\n".join(lines) + "\n"


def gone_unit(instance: Instance) -> str:
    """Started by systemd where the agent's unit has failed and is not started again. Raises as `drop_in`."""
    return f"""{_HEAD.format(unit=gone_of(instance.name))}
[Unit]
Description=tells that agent-mailer for {instance.name} is gone

[Service]
Type=oneshot
WorkingDirectory={_plain(instance.workdir)}
ExecStart={_program(instance.program)} service gone
Environment="PATH={_quoted(":".join(instance.path))}"
TimeoutStartSec={ONESHOT_SECONDS}
UMask=0077
"""


def read_drop_in(name: str, text: str) -> Instance | None:
    """The instance that `drop_in` has written; None for any other text."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, found, value = line.partition("=")
        if found and not line.startswith("#"):
            values.setdefault(key, []).append(value)
    try:
        [workdir] = values["WorkingDirectory"]
        program = values["ExecStart"][-1]
        [path] = values["Environment"]
    except (KeyError, ValueError):
        return None
    words = re.fullmatch(r'"([^"]*)" watch --no-interactive', program)
    folders = re.fullmatch(r'"PATH=((?:[^"\\]|\\.)*)"', path)
    if words is None or folders is None:
        return None
    return Instance(
        name=name,
        workdir=Path(workdir.replace("%%", "%")),
        program=Path(words[1].replace("%%", "%")),
        path=tuple(_unquoted(folders[1]).split(":")),
        needs=tuple(Path(need.replace("%%", "%")) for need in values.get("Needs", ())),
        more=tuple(Path(folder.replace("%%", "%")) for folder in values.get("Path", ())),
        allow_sudo="NoNewPrivileges" in values,
    )


def oneshot_of(texts: Sequence[str], program: Path, words: Sequence[str], output: Path, errors: Path) -> str:
    """A unit that runs `agent-mailer WORDS` once, in the very surroundings of the service that `texts` make up."""
    tail = [
        "[Unit]",
        "OnFailure=",
        "[Service]",
        "Type=oneshot",
        "Restart=no",
        "WatchdogSec=0",
        "KillMode=control-group",
        f"TimeoutStartSec={ONESHOT_SECONDS}",
        f"StandardOutput=file:{_plain(output)}",
        f"StandardError=file:{_plain(errors)}",
        "ExecStart=",
        f"ExecStart={_program(program)} {' '.join(words)}",
    ]
    return "\n".join([*texts, *tail]) + "\n"


def _plain(path: Path) -> str:
    """A path as the whole rest of a line."""
    text = str(path)
    odd = not text.isprintable() or text.strip() != text or text.endswith("\\")
    if odd or not path.is_absolute():
        raise _bad(path)
    return text.replace("%", "%%")


def _program(path: Path) -> str:
    """The first word of a command line, in which systemd takes a $ as it is and allows no quotes."""
    if set("\"'\\") & set(str(path)):
        raise _bad(path)
    return f'"{_plain(path)}"'


def _quoted(text: str) -> str:
    if not text.isprintable():
        raise _bad(text)
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _bad(path: object) -> ConfigFault:
    return ConfigFault("bad_path", f"{printable(str(path))!r} cannot stand in a systemd unit", "use another folder")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text).replace("%%", "%")
