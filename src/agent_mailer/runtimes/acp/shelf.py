"""Where descriptors lie: a workdir's own, where it is trusted; the user's; and those that are shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault, quoted
from agent_mailer.names import printable
from agent_mailer.runtimes.acp.descriptor import LARGEST, NAME, Descriptor, read

AGENTS = "agents"


class Known(msgspec.Struct, frozen=True):
    """An agent by its name. `where`: the path, or a word for one that counts in place of a file."""

    name: str
    where: str
    descriptor: Descriptor


class Shelf(msgspec.Struct, frozen=True):
    """`own` are the trusted bytes of the workdir's, by file name below its templates; `user` is the user's folder."""

    own: Mapping[str, bytes]
    user: Path

    def names(self) -> list[str]:
        """Whatever is wrong with them."""
        files = [*(Path(name).stem for name in self.own if name.startswith(f"{AGENTS}/"))]
        files += [path.stem for folder in (self.user, shipped_folder()) for path in folder.glob("*.toml")]
        return sorted({name for name in files if NAME.fullmatch(name)})

    def find(self, name: str) -> Known:
        """Raises ConfigFault where there is none of that name, or nothing can be done with it."""
        if NAME.fullmatch(name):
            for where, data in self._places(name):
                return Known(name, where, read(data, where))
        there = ", ".join(self.names())
        raise ConfigFault(
            "no_agent",
            f"no agent is described by the name {printable(name, 60)!r}; there are: {there}",
            "agent-mailer runtime list",
        )

    def _places(self, name: str) -> Iterator[tuple[str, bytes]]:
        file = f"{AGENTS}/{name}.toml"
        if file in self.own:
            yield f".agent-mailer/templates/{file}", self.own[file]
        for folder in (self.user, shipped_folder()):
            path = folder / f"{name}.toml"
            try:
                yield str(path), read_regular(path, LARGEST + 1, follow=True)
            except FileNotFoundError:
                continue
            except OSError as error:
                why = f"{path} cannot be read: {error.strerror}"
                raise ConfigFault("bad_descriptor", why, f"ls -l {quoted(path)}") from error


def shipped_folder() -> Path:
    """Beside the package in a wheel, at the top of the tree in an editable install."""
    here = Path(__file__).resolve()
    for folder in (here.parents[2] / "templates" / AGENTS, here.parents[4] / "templates" / AGENTS):
        if folder.is_dir():
            return folder
    raise ConfigFault("no_template", "the descriptions of agents are missing", "reinstall agent-mailer")
