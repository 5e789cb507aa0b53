"""From a workdir, its configuration and the agent program to the bounds of one turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

import agent_mailer
from agent_mailer.confine.port import Access, Bounds, Network, Rule, TurnPlaces
from agent_mailer.errors import ConfigFault, quoted
from agent_mailer.git_guard import kept_in
from agent_mailer.git_tree import tree_at
from agent_mailer.names import printable
from agent_mailer.runtimes.port import ProgramHome

SECRETS = (
    *(".ssh", ".aws", ".gnupg", ".agent-mailer", ".azure", ".kube", ".password-store", ".netrc", ".git-credentials"),
    *(
        ".pypirc",
        ".vault-token",
        ".config/gh",
        ".config/gcloud",
        ".config/git/credentials",
        ".config/op",
        ".config/hub",
    ),
    *(".docker/config.json", ".local/share/keyrings", ".local/share/kwalletd", ".cargo/credentials.toml"),
    *(".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware"),
    *(
        ".config/microsoft-edge",
        ".config/vivaldi",
        ".config/opera",
        ".librewolf",
        ".zen",
        "snap/firefox",
        "snap/chromium",
    ),
    *(".var/app/org.mozilla.firefox", ".var/app/com.google.Chrome", ".var/app/org.chromium.Chromium"),
    *(".1password", ".config/1Password", ".bitwarden-ssh-agent.sock", ".config/keepassxc", ".config/rclone", ".fly"),
    *(".npmrc", ".pgpass", ".my.cnf", ".gem/credentials", ".terraform.d/credentials.tfrc.json"),
    *(".docker/desktop", ".docker/run", ".rd", ".lima", ".colima", ".config/containers/auth.json", ".screen"),
    *(".bash_history", ".zsh_history", ".python_history", ".psql_history", ".mysql_history", ".node_repl_history"),
    *(".local/share/fish/fish_history", ".config/agent-mailer", ".local/share/agent-mailer"),
)
"""Below the home folder: keys, logins, what browsers know of a person, sockets of those who start programs outside."""

LOGINS = (
    *(".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json", ".qwen/oauth_creds.json"),
    *(".local/share/opencode/auth.json", ".config/github-copilot", ".config/cursor/auth.json"),
)
"""The same, of agent programs: hidden but from the one whose they are, and where the user opens a folder above."""

TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - what a turn sees in their place
_RUNTIME = Path("/run")
_OF_RUN = (
    "systemd/resolve",
    "NetworkManager",
    "resolvconf",
    "nscd",
    "current-system",
    "booted-system",
    "opengl-driver",
)
"""Names of hosts are looked up by these; NixOS has its programs there."""
_OF_ROOT = ("/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/gshadow-", "/etc/ssl/private")
_KNOWN_HOSTS = ("known_hosts", "known_hosts2", "config")


class Places(msgspec.Struct, frozen=True):
    """What the bounds of every turn of a workdir come from. `read`, `write` and `hide` are the user's, absolute.

    `state` is `.agent-mailer/`; `hidden` what is ours beyond it: mailbox, the user's state, other agents' workdirs.
    `mailbox`: the folder mailbox, where the agent may write it. `cache`: of package managers, for this agent alone.
    `account`: the home that the system names, where ssh and others look whatever `HOME` says.
    """

    workdir: Path
    state: Path
    home: Path
    cache: Path
    account: Path | None = None
    project: Path | None = None
    mailbox: Path | None = None
    hidden: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    hide: tuple[Path, ...] = ()
    network: Network = Network.ON
    may_write: bool = True
    """Not in plan mode."""
    own_variables: frozenset[str] = frozenset()
    """Names that the user has set for the agent: ours give way."""


def bounds_of(
    places: Places, turn: TurnPlaces, program: Path, home: ProgramHome | None, env: Mapping[str, str]
) -> Bounds:
    """Of one turn of `program`, with its `env`. Raises ConfigFault where the configuration asks for what cannot be."""
    roots = _Roots(places)
    rules = _Rules()
    rules.add(Path("/"), Access.READ)
    for folder in (*TEMPORARY, _RUNTIME):
        rules.add(_real(folder), Access.HIDE)
    rules.add_all((_RUNTIME / name for name in _OF_RUN), Access.READ)
    if os.geteuid() == 0:
        rules.add_all(map(Path, _OF_ROOT), Access.HIDE)
    for path in _interpreter():
        rules.add(path, Access.READ)
    sockets = tuple(_named_sockets(env))
    for folder in dict.fromkeys(filter(None, (places.home, places.account))):
        rules.add_all((folder / name for name in SECRETS), Access.HIDE)
        opened = (*places.read, *places.write, *(home.folders if home is not None else ()))
        logins = (folder / name for name in LOGINS)
        rules.add_all((path for path in logins if not any(map(path.is_relative_to, opened))), Access.HIDE)
        if sockets:
            rules.add_all((folder / ".ssh" / name for name in _KNOWN_HOSTS), Access.READ)
    rules.add(places.cache, Access.WRITE)
    if home is not None:
        for folder in home.folders:
            rules.add(_real(folder), Access.WRITE)
        for path in (home.path / name for name in home.settings):
            rules.add(_real(path), Access.READ, firm=False)
        rules.add_all((home.path / name for name in home.kept), Access.READ, firm=False)
        rules.add_all((home.path / name for name in home.hidden), Access.HIDE, firm=False)
    for root in roots.working:
        rules.add(root, Access.WRITE if places.may_write else Access.READ)
        for path in _git_elsewhere(root, roots.working) if places.may_write else ():
            rules.add(path, Access.WRITE)
    ours = [_real(path) for path in (places.state, *places.hidden)]
    for path in (*places.read, *places.write, *(home.folders if home is not None else ())):
        _require_open(roots.settled(path), ours)
    # Commits work, what git obeys stays: it is obeyed outside, when a person works there.
    for path in (kept.path for top in written_trees(places) for kept in kept_in(top)):
        if not path.is_symlink():
            rules.add(path, Access.READ, firm=False)
    for path in places.read:
        rules.add(roots.settled(path), Access.READ, over=True)
    for path in places.write:
        rules.add(roots.settled(path), Access.WRITE, over=True)
    for path in (*places.hide, *ours):
        rules.add(_real(path), Access.HIDE, over=True)
    for path in sockets:
        rules.add(path, Access.WRITE, over=True)
    if places.mailbox is not None:
        rules.add(_real(places.mailbox), Access.WRITE, over=True)
    rules.add(_real(program), Access.READ)
    folder, tmp = _real(turn.folder), _real(turn.tmp)
    rules.add(folder, Access.READ, over=True)
    rules.add(_real(turn.outbox), Access.WRITE, over=True)
    rules.add(tmp, Access.WRITE, over=True)
    fresh = () if home is None else tuple(_real(home.path / name) for name in home.fresh)
    for path in fresh:
        rules.add(path, Access.WRITE, firm=False)
    # Python finds a package by the names in the folder that it lies in.
    package = _real(Path(agent_mailer.__file__).parent.parent)
    listed = (*roots.working, *map(_real, (*places.read, *places.write)), folder, package)
    workdir = _real(places.workdir)
    return Bounds(rules.sorted(), folder, workdir, tmp, program, places.network, sockets, fresh, listed)


class _Rules:
    """One rule a path. Of two the later one counts where it is `over`, else the stricter."""

    def __init__(self) -> None:
        self._rules: dict[Path, Rule] = {}

    def add(self, path: Path, access: Access, *, firm: bool = True, over: bool = False) -> None:
        known = self._rules.get(path)
        if known is None or over or access < known.access:
            self._rules[path] = Rule(path, access, firm)

    def add_all(self, paths: Iterable[Path], access: Access, *, firm: bool = True) -> None:
        """Those that are there, each where its links lead."""
        for path in paths:
            if os.path.lexists(path):
                self.add(_real(path), access, firm=firm)

    def sorted(self) -> tuple[Rule, ...]:
        """Each folder before what lies in it, with the folders in between: what is a rule's cannot be moved away."""
        rules = dict(self._rules)
        for path in self._rules:
            for between in path.parents:
                holder = next(above for above in (between, *between.parents) if above in self._rules)
                if between != holder and self._rules[holder].access is Access.WRITE:
                    rules.setdefault(between, Rule(between, Access.WRITE))
        return tuple(rules[path] for path in sorted(rules, key=lambda path: path.parts))


class _Roots:
    """The folders the agent works in, and what lies in them by no link that it may have made itself."""

    def __init__(self, places: Places) -> None:
        workdir = _real(places.workdir)
        self.working = [workdir]
        if places.project is not None:
            self._places = places
            project = self.settled(places.project)
            if project != workdir:
                self.working.append(project)

    def settled(self, path: Path) -> Path:
        """Where `path` leads. Raises ConfigFault for a link inside of a folder that the agent writes."""
        real = _real(path)
        for root in self.working:
            inside = path if path.is_relative_to(root) else None
            while inside is not None and inside != root:
                if inside.is_symlink():
                    text = f"{printable(str(inside))} is a link in a folder that the agent writes: it may have made it"
                    raise ConfigFault("sandbox_link", text, "name where it leads in config.toml, or remove it")
                inside = inside.parent
        return real


def _require_open(path: Path, ours: Sequence[Path]) -> None:
    """Raises ConfigFault for what is not there, and for what no sandbox may open."""
    hidden = next((folder for folder in ours if path.is_relative_to(folder)), None)
    if hidden is not None:
        text = f"[sandbox] cannot open {path}: {hidden} is hidden from every turn"
        raise ConfigFault("sandbox_opens", text, "agent-mailer config edit")
    if not os.path.lexists(path):
        raise ConfigFault("sandbox_missing", f"[sandbox] opens {path}, which is not there", f"mkdir -p {quoted(path)}")


def _interpreter() -> Iterator[Path]:
    """What the mail tools run from: an agent that could change it would be asked to confine itself."""
    yield _real(Path(agent_mailer.__file__).parent)
    for prefix in {sys.prefix, sys.base_prefix}:
        if prefix not in ("/usr", "/usr/local", "/"):
            yield _real(Path(prefix))


def _named_sockets(env: Mapping[str, str]) -> Iterator[Path]:
    """The ssh-agent, where `[env] pass` names it: the only socket that is somebody else's."""
    path = env.get("SSH_AUTH_SOCK", "")
    if path.startswith("/") and os.path.lexists(path):
        yield _real(Path(path))


def written_trees(places: Places) -> list[Path]:
    """Folders that a turn may write and that may be the top of a git tree, or a git folder."""
    working = [places.workdir, *([] if places.project is None else [places.project])] if places.may_write else []
    return [_real(path) for path in (*working, *places.write)]


def _git_elsewhere(root: Path, working: Sequence[Path]) -> Iterator[Path]:
    """The git folder of a tree, where it lies in none that the agent writes."""
    tree = tree_at(root)
    if tree is not None and not tree.broken:
        common = _real(tree.common)
        if not any(common.is_relative_to(one) for one in working):
            yield common


def _real(path: Path) -> Path:
    """Absolute, every link followed; what is missing stays as it is."""
    return Path(os.path.realpath(path))
