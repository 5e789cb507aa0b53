"""Workdirs with their mailbox as earlier versions left them: `kept_past.py` makes them, a test opens them.

A kept state is one JSON file, so that a change of it can be read. Where it lay stands in it as `@BASE@`, and
`@WORKDIR@` for the name that a user's state folder has for the workdir.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent_mailer.names import path_name

FOLDER = Path(__file__).parent / "fixtures" / "kept"
_BASE, _WORKDIR = "@BASE@", "@WORKDIR@"


class Kept(msgspec.Struct, frozen=True):
    """`moment`: seconds since the epoch, when its watcher was killed; `messages`: their ids by what befell them;
    `files`: text by path, `folders`: those that are empty.
    """

    commit: str
    date: str
    says: str
    moment: float
    messages: dict[str, str]
    files: dict[str, str]
    folders: tuple[str, ...]

    def lay_out(self, base: Path) -> None:
        """Write it below `base`, which becomes the folder with `mail`, `coder` and the user's `state`."""
        for name in self.folders:
            self._folder(base, base / self._here(name, base))
        for name, text in self.files.items():
            path = base / self._here(name, base)
            self._folder(base, path.parent)
            path.write_text(self._here(text, base))
            path.chmod(0o600)

    def _folder(self, base: Path, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        while path != base:
            path.chmod(0o700)
            path = path.parent

    def _here(self, text: str, base: Path) -> str:
        return text.replace(_BASE, str(base)).replace(_WORKDIR, path_name(str((base / "coder").resolve())))


def take(base: Path, **about: object) -> Kept:
    """What lies below `base`, a folder without links. `about`: the other fields."""
    files: dict[str, str] = {}
    folders: list[str] = []
    here = {str(base): _BASE, path_name(str(base / "coder")): _WORKDIR}

    def anywhere(text: str) -> str:
        for place, word in here.items():
            text = text.replace(place, word)
        return text

    for path in sorted(base.rglob("*")):
        name = anywhere(str(path.relative_to(base)))
        if path.is_file():
            files[name] = anywhere(path.read_text())
        elif path.is_dir() and not any(path.iterdir()):
            folders.append(name)
    return msgspec.convert({**about, "files": files, "folders": tuple(folders)}, type=Kept)


def load(path: Path) -> Kept:
    return msgspec.json.decode(path.read_bytes(), type=Kept)


def store(kept: Kept, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
