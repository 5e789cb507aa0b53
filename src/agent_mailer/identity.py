"""A workdir's documents: who they say the agent is, its agreement with the configuration, and whether they changed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

from agent_mailer.disk import read_regular
from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable, sha256

IDENTITY_FILES = ("AGENT.md", "SOUL.md")

MOST_BYTES = 1024 * 1024
LONGEST_LINE = 1000
"""What is larger is not looked at: the identity stands at the top, in short lines."""

_LABELS = {
    "name": "agent_name",
    "agent name": "agent_name",
    "agent_name": "agent_name",
    "address": "address",
    "agent address": "address",
    "agent id": "agent_id",
    "agent_id": "agent_id",
    "id": "agent_id",
    "broker": "broker_url",
    "broker url": "broker_url",
    "broker_url": "broker_url",
}
INSTRUCTIONS = (
    *(*IDENTITY_FILES, "CLAUDE.md", "CLAUDE.local.md", "AGENTS.md", "GEMINI.md", ".mcp.json", ".cursorrules"),
    *(".claude", ".codex", ".cursor"),
)
"""What tells agent programs what to do, and what to start."""

_PASSED_OVER = frozenset(
    (
        *("projects", "sessions", "todos", "tasks", "statsig", "shell-snapshots", "file-history", "debug", "logs"),
        *("log", "history", "cache", "tmp", "worktrees", "ide", "plans", "telemetry", "session-env", "backups"),
    )
)
_KEPT_BY_PROGRAMS = (".jsonl", ".log", ".lock", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".credentials.json")
"""What the programs keep for themselves, where such a folder is also the user's own."""

MOST_DOCUMENTS = 400
DEEPEST = 4
HASHED = 64 * 1024
LITTLE = 40
"""So many files and folders are read through in less time than a thread takes to be started."""

_OF_A_BRANCH = rb"\[branch \"[\w./-]+\"\]|\t(remote|merge|rebase|pushRemote) = [\w./-]+"
"""What a push, or a new branch, writes into git's settings: nothing runs by it."""

_BULLET = r"\s*[-*]\s*\*\*(?P<label>[^*]+?)\*\*\s*:\s*(?P<value>.*)"
_PLAIN = r"(?P<label>[A-Za-z_ ]+?)\s*:\s*(?P<value>.*)"
_HEADING = r"#+\s*(?P<title>.*)"
_FOREIGN_SECTIONS = ("protocol", "邮箱协议", "api", "system prompt", "身份提示词")
"""Sections whose lines are examples and instructions, not identity."""

_COMPARED = ("agent_id", "address", "agent_name")


def read_identity(workdir: Path) -> dict[str, str]:
    """The identity in the workdir's AGENT.md, else SOUL.md: config key -> value. Empty where there is none."""
    return _read(workdir)[1]


def _read(workdir: Path) -> tuple[str, dict[str, str]]:
    """The name of the file that counts, and what it says."""
    for name in IDENTITY_FILES:
        with suppress(OSError):
            text = read_regular(workdir / name, MOST_BYTES, follow=True)[:MOST_BYTES].decode("utf-8", "replace")
            return name, parse_identity(text)
    return IDENTITY_FILES[0], {}


def parse_identity(text: str) -> dict[str, str]:
    """Bullets `- **Label**: value` or lines `Label: value`; the first of each counts, fences are passed over."""
    found: dict[str, str] = {}
    fenced = foreign = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        if len(line) > LONGEST_LINE:
            continue
        heading = re.fullmatch(_HEADING, line)
        if heading:
            foreign = any(word in heading["title"].casefold() for word in _FOREIGN_SECTIONS)
            continue
        match = None if foreign else re.fullmatch(_BULLET, line) or re.fullmatch(_PLAIN, line)
        key = _LABELS.get(match["label"].strip().casefold()) if match else None
        if match is not None and key is not None:
            found.setdefault(key, match["value"].strip().strip("`").strip())
    return {key: value for key, value in found.items() if value}


def require_agreement(workdir: Path, configured: Mapping[str, str]) -> None:
    """Raises ConfigFault where AGENT.md names another agent than the configuration."""
    name, identity = _read(workdir)
    for key in _COMPARED:
        ours, theirs = configured.get(key, ""), identity.get(key, "")
        if key == "address" and ("@" in ours) is not ("@" in theirs):
            continue  # the address at a broker and the handle of a folder mailbox are two names of one agent
        if ours and theirs and ours != theirs:
            raise ConfigFault(
                "identity_mismatch",
                f"{workdir / name} says {key} {printable(theirs)!r}, config.toml says {printable(ours)!r}",
                f"correct one of them (agent-mailer config set {key} VALUE), or run with --ignore-agent-md-mismatch",
            )


def documents_in(folders: Iterable[Path]) -> dict[str, str]:
    """Each document in `folders` by its path, with what tells one content from another; of at most MOST_DOCUMENTS."""
    found: dict[str, str] = {}
    for folder in dict.fromkeys(folders):
        # Mostly none of them is there, and every turn asks twice.
        there = [name for name in INSTRUCTIONS if os.path.lexists(f"{folder}/{name}")]
        for name in there:
            for path in _files_at(folder / name, DEEPEST):
                if len(found) >= MOST_DOCUMENTS:
                    return found
                with suppress(OSError):
                    found[os.fsencode(path).decode("utf-8", "replace")] = _mark(path)
    return found


def obeyed_by_git(folders: Iterable[Path]) -> dict[str, str]:
    """The same of what git obeys and runs in `folders`."""
    from agent_mailer.git_guard import obeyed_in  # who asks only who the agent is does without

    found: dict[str, str] = {}
    for folder in dict.fromkeys(folders):
        for path in islice(obeyed_in(folder), MOST_DOCUMENTS):
            with suppress(OSError):
                found[os.fsencode(path).decode("utf-8", "replace")] = _mark(path)
    return found


def holds_little(folder: Path) -> bool:
    """Whether all that `documents_in` and `obeyed_by_git` could look at there is little. Where it is more, that is told
    after a little.
    """
    from agent_mailer.git_guard import NOT_LOOKED_INTO

    seen, top = 0, os.fspath(folder)
    left = [top]
    while left:
        place = left.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    seen += 1
                    # What belongs to a repository may lie anywhere.
                    if seen > LITTLE or entry.name == ".git":
                        return False
                    passed_over = place == top and entry.name in NOT_LOOKED_INTO
                    if not passed_over and entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
        except OSError:
            return False
    return True


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def _files_at(path: Path, deep: int) -> Iterator[Path]:
    """A file itself, of a folder those below it. A link is a file here: what it leads to lies elsewhere."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    if deep == 0:
        return
    with suppress(OSError), os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name not in _PASSED_OVER and not entry.name.endswith(_KEPT_BY_PROGRAMS):
                yield from _files_at(Path(entry.path), deep - 1)


def _mark(path: Path) -> str:
    """A digest of a small file, of others what the system says of them. Raises OSError."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"link {os.fsencode(path.readlink()).hex()}"
    if stat.S_ISREG(found.st_mode) and found.st_size <= HASHED:
        content = read_regular(path, HASHED)
        if path.name == "config":
            content = b"\n".join(line for line in content.split(b"\n") if not re.fullmatch(_OF_A_BRANCH, line))
        return sha256(content).hexdigest()
    return f"{found.st_mode} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
