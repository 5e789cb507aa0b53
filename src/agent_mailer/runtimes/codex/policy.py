"""What codex's sandbox lets the agent's commands touch: a permission profile of ours, or `-s` where it has none.

A profile says by path what is read and written, so that commits work while the login, the configuration and our files
are out of reach. `-s` cancels a profile without a word, so never both. Nearly pure: it looks for git's folders.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from agent_mailer.git_tree import tree_at
from agent_mailer.runtimes.port import PermissionMode, Reach
from agent_mailer.runtimes.programs import secrets_in

PROFILE = "agent_mailer"

_SINCE = (0, 169, 0)
"""The oldest version that was seen to keep to a profile."""

_BYPASS = "--dangerously-bypass-approvals-and-sandbox"
_SANDBOX = {
    PermissionMode.PLAN: ("-s", "read-only"),
    PermissionMode.ACCEPT_EDITS: ("-s", "workspace-write"),
    PermissionMode.BYPASS_PERMISSIONS: (_BYPASS,),
}
_BASE = {PermissionMode.PLAN: ":read-only", PermissionMode.ACCEPT_EDITS: ":workspace"}

# A sandbox chosen in the extra arguments was chosen by hand, and a profile would not hold beside it.
_BY_HAND = re.compile(
    rf"(-s|--sandbox|--yolo|{_BYPASS})(=.*)?|-s.+|((--config=|-c)?(sandbox_mode|default_permissions)\s*=.*)"
    r"|((--config=|-c)?sandbox_workspace_write(?!\.network_access)\b.*)",
    re.DOTALL,
)
_NETWORK = re.compile(r"(--config=|-c)?sandbox_workspace_write\.network_access\s*=\s*true\s*")

# The folder itself must stay readable: codex's own helper lies in it.
_HOME = ("auth.json", "config.toml", "sessions", "archived_sessions", "history.jsonl", "log", "memories")
_DATABASE = ("", "-wal", "-shm")
_TMP = Path("/tmp")  # noqa: S108 - what codex lets be written
_GIT_KEPT = ("hooks", "config", "config.worktree", "commondir", "gitdir", "modules")


class Access(StrEnum):
    READ = "read"
    WRITE = "write"
    DENY = "deny"


class Ground(msgspec.Struct, frozen=True):
    """Where a turn works: `outbox` None where there is no turn. `confined`: from without already, so that what is ours
    is not to be seen; `walled`: so that codex's own sandbox cannot start.
    """

    workdir: Path
    project_dir: Path | None = None
    outbox: Path | None = None
    confined: bool = False
    walled: bool = False


class Policy(msgspec.Struct, frozen=True):
    """The words of the command line that say it. `profile`: a profile of ours does; `why_not` where it does not."""

    words: tuple[str, ...]
    profile: bool = False
    why_not: str = ""


def policy(
    mode: PermissionMode,
    reach: Reach,
    ground: Ground,
    env: Mapping[str, str],
    home: Path,
    extra: Sequence[str],
    version: tuple[int, int, int] | None,
) -> Policy:
    """`home` is codex's folder, `version` None where the program's place does not tell it."""
    if mode is PermissionMode.BYPASS_PERMISSIONS:
        return Policy(_SANDBOX[mode], why_not="the mode is bypassPermissions")
    if ground.walled:
        return Policy(("-s", "danger-full-access"), why_not="the whole turn is confined by agent-mailer")
    if any(_BY_HAND.fullmatch(word) for word in extra):
        return Policy(_SANDBOX[mode], why_not="extra_args choose a sandbox")
    if version is not None and version < _SINCE:
        return Policy(_SANDBOX[mode], why_not=f"codex {'.'.join(map(str, version))} has no permission profiles")
    temporary = _TMP if ground.confined else Path(env.get("TMPDIR") or _TMP)
    if home.is_relative_to(temporary):
        return Policy(_SANDBOX[mode], why_not=f"codex does without profiles where its folder lies below {temporary}")
    open_to_all = (ground.workdir, ground.project_dir or ground.workdir, temporary, _TMP)
    files = {
        path: access
        for path, access in _files(mode, reach, ground, env, home)
        # Of what is missing in a place that is written codex would make an empty file, for a moment that others see.
        if access is Access.WRITE or os.path.lexists(path) or not any(map(path.is_relative_to, open_to_all))
    }
    rows = {str(path): access for path, access in files.items()}
    if temporary != _TMP:
        # What everybody shares is not needed then.
        rows[":slash_tmp"] = Access.READ
    table = ",".join(f"{toml(path)}={toml(access)}" for path, access in rows.items())
    network = mode is PermissionMode.ACCEPT_EDITS and any(_NETWORK.fullmatch(word) for word in extra)
    given = f'{{extends="{_BASE[mode]}",filesystem={{{table}}},network={{enabled={"true" if network else "false"}}}}}'
    return Policy(("-c", f"default_permissions={toml(PROFILE)}", "-c", f"permissions.{PROFILE}={given}"), profile=True)


def toml(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but TOML wants DEL escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def hidden_in(home: Path) -> list[Path]:
    """What of codex's folder is none of the agent's business: its login, its settings, other sessions."""
    databases = [Path(f"{path}{part}") for path in sorted(home.glob("*.sqlite")) for part in _DATABASE]
    return [*(home / name for name in _HOME), *sorted(home.glob("*.config.toml")), *databases]


def _files(
    mode: PermissionMode, reach: Reach, ground: Ground, env: Mapping[str, str], home: Path
) -> Iterator[tuple[Path, Access]]:
    """The narrower path wins, wherever it stands."""
    if mode is PermissionMode.ACCEPT_EDITS:
        if ground.project_dir is not None:
            yield ground.project_dir, Access.WRITE
            yield from _git(ground.project_dir)
        yield from _git(ground.workdir)
    yield from ((path, Access.DENY) for path in hidden_in(home))
    if not ground.confined:
        # Else there is nothing to be denied, and codex would need a place to do it.
        yield from ((path, Access.DENY) for path in (*secrets_in(env), *reach.hidden))
        yield from ((path, Access.READ) for path in reach.kept)
    if ground.outbox is not None:
        yield ground.outbox, Access.WRITE


def _git(root: Path) -> Iterator[tuple[Path, Access]]:
    """Git's folders are written by a commit; what in them runs programs of its own choice is not."""
    for folder in _git_folders(root):
        yield folder, Access.WRITE
        yield from ((folder / name, Access.READ) for name in _GIT_KEPT if (folder / name).exists())


def _git_folders(root: Path) -> list[Path]:
    """Of the git tree that `root` is in; none where it is not surely a person's: others can make one above it."""
    for folder in (root, *root.parents):
        try:
            above = folder.lstat()
        except OSError:
            return []
        if (tree := tree_at(folder)) is None:
            continue
        others = folder != root and (above.st_uid != os.geteuid() or above.st_mode & stat.S_IWOTH)
        if others or tree.broken or not _is_whole(tree.common):
            return []
        return list(dict.fromkeys((tree.common, tree.git)))
    return []


def _is_whole(folder: Path) -> bool:
    """What must be kept from the agent is there and is no link: of what is missing it could make its own."""
    links = any((folder / name).is_symlink() for name in (*_GIT_KEPT, "objects", "refs"))
    return not links and (folder / "hooks").is_dir() and (folder / "config").is_file()


# What is looked at is a word of its own, never a part of the script.
_LOOK = """\
for it do
  case $it in
    r:*) [ ! -r "${it#r:}" ] || echo "it can read ${it#r:}" ;;
    w:*) [ ! -w "${it#w:}" ] || echo "it can write ${it#w:}" ;;
    W:*) [ -w "${it#W:}" ] || echo "it cannot write ${it#W:}" ;;
  esac
done
echo looked
"""
_LOOKED = "looked"


def trial_words(mode: PermissionMode, reach: Reach, ground: Ground, env: Mapping[str, str], home: Path) -> list[str]:
    """A command for codex's own sandbox that tells what it could touch and should not. It touches nothing."""
    writes = "W" if mode is PermissionMode.ACCEPT_EDITS else "w"
    hidden = [*reach.hidden, *hidden_in(home), *secrets_in(env)]
    looks = [f"{writes}:{ground.workdir}", *(f"r:{path}" for path in hidden), *(f"w:{path}" for path in reach.kept)]
    return ["-P", PROFILE, "-C", str(ground.workdir), "--", "/bin/sh", "-c", _LOOK, "sh", *looks]


def read_trial(output: str) -> list[str] | None:
    """What is not as it should be; None where the sandbox did not come to look."""
    lines = [line.strip() for line in output.splitlines()]
    return [line for line in lines if line.startswith("it can")] if _LOOKED in lines else None
