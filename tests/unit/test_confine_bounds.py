"""What a turn is held to, as a value: which rule decides, what a user may open, what an agent cannot."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from platformdirs import user_cache_path, user_data_path, user_state_path
from tests.desk import Desk

import agent_mailer
from agent_mailer.config import Config
from agent_mailer.confine.bounds import Places, bounds_of
from agent_mailer.confine.bwrap import Bubblewrap
from agent_mailer.confine.confinement import _with_caches
from agent_mailer.confine.enter_landlock import ABSTRACT_ONLY
from agent_mailer.confine.kinds import sandbox_of
from agent_mailer.confine.landlock import Landlock
from agent_mailer.confine.port import Access, Bounds, Kind, Network, Promise, TurnPlaces
from agent_mailer.confine.srt import _settings
from agent_mailer.confining import Around, places_of
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault
from agent_mailer.runtimes.claude.adapter import ClaudeOptions, ClaudeRuntime
from agent_mailer.runtimes.codex.adapter import CodexRuntime
from agent_mailer.runtimes.port import Launch, PermissionMode, ProgramHome
from agent_mailer.state.workdirs import known_workdirs

READ, WRITE, HIDE = Access.READ, Access.WRITE, Access.HIDE


# As the programs themselves name them, below the home folder.
KEYS = (
    *(".ssh/id_ed25519", ".aws/credentials", ".gnupg/private-keys-v1.d/x.key"),
    *(".azure/msal_token_cache.json", ".kube/config", ".netrc", ".password-store/bank.gpg"),
    *(".git-credentials", ".config/git/credentials", ".config/gh/hosts.yml", ".config/hub"),
    *(".config/op/config", ".config/gcloud/credentials.db", ".config/rclone/rclone.conf"),
    *(".fly/config.yml", ".vault-token", ".docker/config.json", ".config/containers/auth.json"),
    *(".terraform.d/credentials.tfrc.json", ".pypirc", ".npmrc", ".cargo/credentials.toml", ".pgpass"),
    *(".my.cnf", ".gem/credentials", ".local/share/keyrings/login.keyring"),
    *(".local/share/kwalletd/kdewallet.kwl", ".config/keepassxc/keepassxc.ini", ".1password/agent.sock"),
    *(".config/1Password/settings/settings.json", ".bitwarden-ssh-agent.sock", ".docker/run/docker.sock"),
    *(".docker/desktop/docker.sock", ".rd/docker.sock", ".lima/default/ha.sock", ".colima/docker.sock"),
    *(".screen/1.pts", ".mozilla/firefox/p/logins.json", ".thunderbird/p/logins.json"),
    *(".librewolf/p/logins.json", ".zen/p/logins.json", ".config/chromium/Default/Cookies"),
    *(".config/google-chrome/Default/Cookies", ".config/microsoft-edge/Default/Cookies"),
    *(".config/BraveSoftware/Brave-Browser/Default/Cookies", ".config/vivaldi/Default/Cookies"),
    *(".config/opera/Cookies", "snap/firefox/common/x", "snap/chromium/common/x"),
    *(".var/app/org.mozilla.firefox/x", ".var/app/com.google.Chrome/x"),
    *(".var/app/org.chromium.Chromium/x", ".bash_history", ".zsh_history"),
    *(".local/share/fish/fish_history", ".python_history", ".psql_history", ".mysql_history"),
    *(".node_repl_history", ".agent-mailer/x", ".config/agent-mailer/x", ".local/share/agent-mailer/x"),
    *(".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json"),
    *(".qwen/oauth_creds.json", ".local/share/opencode/auth.json", ".config/github-copilot/apps.json"),
    ".config/cursor/auth.json",
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    home = tmp_path / "home"
    for name in ("agent/.agent-mailer/turns/t/outbox", "agent/.agent-mailer/turns/t/tmp", "agent/src", ".ssh", "cache"):
        (home / name).mkdir(parents=True)
    (home / "other" / "secret").mkdir(parents=True)
    return Places(
        workdir=home / "agent",
        state=home / "agent" / ".agent-mailer",
        home=home,
        cache=home / "cache",
        hidden=(home / "other",),
    )


def bounds(places: Places, home: ProgramHome | None = None, **env: str) -> Bounds:
    turn = places.state / "turns" / "t"
    return bounds_of(places, TurnPlaces(turn, turn / "outbox", turn / "tmp"), Path("/bin/sh"), home, env)


def test_the_deepest_rule_decides(places: Places) -> None:
    home, state = places.home, places.state
    found = bounds(msgspec.structs.replace(places, read=(home,)))
    assert found.access(home / "more") is READ
    assert found.access(Path("/usr/bin/env")) is READ
    assert found.access(home / "agent" / "src" / "new") is WRITE
    assert found.access(state / "config.toml") is HIDE
    assert found.access(state / "turns" / "another" / "mail.json") is HIDE
    assert found.access(state / "turns" / "t" / "mail.json") is READ
    assert found.access(state / "turns" / "t" / "outbox" / "x") is WRITE
    assert found.access(home / ".ssh" / "id") is HIDE
    assert found.access(home / "other" / "plan") is HIDE
    assert [found.access(Path(path)) for path in ("/run/user/1/bus", "/tmp/x", "/var/tmp/x")] == [HIDE] * 3
    if os.geteuid() == 0 and Path("/etc/shadow").exists():
        assert found.access(Path("/etc/shadow")) is HIDE


def hidden(found: Bounds, places: Places, name: str) -> bool:
    """By a rule of its own: the home of these tests lies in a folder that is hidden whole."""
    path = places.home / name
    return any(
        rule.access is HIDE and path.is_relative_to(rule.path) and rule.path.is_relative_to(places.home)
        for rule in found.rules
    )


def test_what_a_person_logs_in_with_and_has_typed_is_hidden(places: Places) -> None:
    for name in KEYS:
        (places.home / name).parent.mkdir(parents=True, exist_ok=True)
        (places.home / name).touch()
    found = bounds(places)
    assert [name for name in KEYS if not hidden(found, places, name)] == []
    assert not hidden(found, places, ".config/another")


def test_the_login_of_another_agent_program_is_hidden(places: Places) -> None:
    home = places.home
    for name in (".claude/.credentials.json", ".codex/auth.json"):
        (home / name).parent.mkdir()
        (home / name).touch()
    assert hidden(bounds(places), places, ".claude/.credentials.json")
    found = bounds(places, ProgramHome(home / ".claude"))
    assert found.access(home / ".claude" / ".credentials.json") is WRITE
    assert hidden(found, places, ".codex/auth.json")
    for how, access in (("read", READ), ("write", WRITE)):
        opened = msgspec.structs.replace(places, **{how: (home / ".codex",)})
        assert bounds(opened).access(home / ".codex" / "auth.json") is access


def test_of_several_places_of_each_kind_each_has_its_rule(places: Places) -> None:
    home, two = places.home, ("one", "two")
    own = home / ".program"
    for name in ("settings", "kept", "hidden", "fresh", "more", "read", "write", "hide", "ours"):
        for number in two:
            ((own if name in ("settings", "kept", "hidden", "fresh") else home) / f"{name}-{number}").mkdir(
                parents=True
            )

    def named(kind: str) -> tuple[str, ...]:
        return tuple(f"{kind}-{number}" for number in two)

    def below(kind: str) -> tuple[Path, ...]:
        return tuple(home / name for name in named(kind))

    program = ProgramHome(
        own, named("settings"), "", named("kept"), named("hidden"), named("fresh"), more=below("more")
    )
    given = msgspec.structs.replace(
        places, read=below("read"), write=below("write"), hide=below("hide"), hidden=below("ours")
    )
    found = bounds(given, program)
    wanted = {
        WRITE: [own, *below("more"), *below("write"), *(own / name for name in named("fresh"))],
        READ: [*below("read"), *(own / name for name in (*named("settings"), *named("kept")))],
        HIDE: [*below("hide"), *below("ours"), *(own / name for name in named("hidden"))],
    }
    for access, paths in wanted.items():
        assert {path.name: found.access(path) for path in paths} == {path.name: access for path in paths}
    assert {path.name for path in found.fresh} == set(named("fresh"))
    for kind in ("read", "write"):
        opens = msgspec.structs.replace(given, **{kind: (home / "read-one", home / "ours-two")})
        with pytest.raises(ConfigFault, match="ours-two"):
            bounds(opens)
    with pytest.raises(ConfigFault, match="ours-two"):
        bounds(given, ProgramHome(own, more=(home / "more-one", home / "ours-two")))


def test_what_is_hidden_is_less_than_what_is_read_and_of_two_rules_the_stricter_one_counts(places: Places) -> None:
    assert len({HIDE, READ, WRITE}) == 3
    assert HIDE < READ < WRITE
    both = msgspec.structs.replace(places, hide=(places.workdir / "src",), read=(places.workdir / "src",))
    assert bounds(both).access(places.workdir / "src" / "x") is HIDE
    keys = msgspec.structs.replace(places, project=places.home / ".ssh")
    assert bounds(keys).access(places.home / ".ssh" / "id") is HIDE


def test_keys_of_the_account_are_hidden_whatever_home_says(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh asks the system, not HOME, where its keys are."""
    account = tmp_path / "account"
    (account / ".ssh").mkdir(parents=True)
    found = bounds(msgspec.structs.replace(places, account=account))
    hidden = {rule.path for rule in found.rules if rule.access is HIDE}
    assert {account / ".ssh", places.home / ".ssh"} <= hidden
    monkeypatch.setenv("HOME", str(tmp_path))
    around = Around(workdir=places.workdir, state=places.state, project=None, root=lambda: None, disk=Disk())
    wired = places_of(Config(), around)
    assert (wired.home, wired.account) == (tmp_path, Path(pwd.getpwuid(os.geteuid()).pw_dir))


def test_no_two_agents_share_a_cache_whatever_their_folders_are_called(tmp_path: Path) -> None:
    """What lies in one is executed by whoever has it."""
    folders = [
        tmp_path / name for name in ("a/api", "b/api", "a/Api", "a-api", "a/api/api", "ü/api", f"{'c' * 60}/api")
    ]

    def cache(workdir: Path) -> Path:
        state = workdir / ".agent-mailer"
        return places_of(Config(), Around(workdir, state, project=None, root=lambda: None, disk=Disk())).cache

    caches = [cache(folder) for folder in folders]
    assert {one.parent for one in caches} == {user_cache_path("agent-mailer")}
    assert len(set(caches)) == len(folders)
    assert caches == [cache(folder) for folder in folders], "each finds its own again"


def test_ours_other_agents_and_the_mailbox_are_hidden_as_it_is_configured(tmp_path: Path, home: Path) -> None:
    del home  # of this test alone
    desk, other = Desk(tmp_path), tmp_path / "other"
    above = desk.workdir / "src"
    above.mkdir()
    for workdir in (desk.workdir, other, tmp_path):
        (workdir / ".agent-mailer").mkdir(parents=True, exist_ok=True)
        known_workdirs(desk.disk).remember(workdir)

    def wired(**changes: object) -> Places:
        desk.configure(**changes)
        place = desk.place()
        around = Around(place.workdir, place.folder.path, place.project_dir(), place.maildir_root, place.disk)
        return places_of(place.config, around)

    ours = {user_state_path("agent-mailer"), user_data_path("agent-mailer")}
    of_others = {other, tmp_path / ".agent-mailer", tmp_path / ".agent-mail"}
    found = wired(sandbox={"kind": "bwrap"}, env={"set": {"CARGO_HOME": "/c"}})
    assert set(found.hidden) == {*ours, *of_others, desk.root}
    assert (found.mailbox, found.may_write, found.own_variables) == (None, False, frozenset({"CARGO_HOME"}))
    opened = wired(
        permission_mode="acceptEdits",
        project_dir="src",
        sandbox={
            "kind": "bwrap",
            "mailbox": "write",
            "read": ["r"],
            "write": ["~/w"],
            "hide": ["/h"],
            "network": "off",
        },
    )
    assert set(opened.hidden) == {*ours, *of_others}
    assert (opened.mailbox, opened.may_write, opened.project) == (desk.root, True, above)
    assert (opened.read, opened.write, opened.hide) == ((desk.workdir / "r",), (Path.home() / "w",), (Path("/h"),))
    assert opened.network is Network.OFF


def test_plan_mode_writes_neither_workdir_nor_project(places: Places) -> None:
    found = bounds(msgspec.structs.replace(places, may_write=False, project=places.workdir / "src"))
    assert found.access(places.workdir / "src" / "x") is READ
    assert found.access(found.tmp / "x") is WRITE


def test_a_user_opens_what_is_the_persons_and_never_what_is_ours(places: Places) -> None:
    opened = bounds(
        msgspec.structs.replace(places, read=(places.home / ".ssh",), hide=(places.home / "agent" / "src",))
    )
    assert opened.access(places.home / ".ssh" / "id") is READ
    assert hidden(opened, places, "agent/src/x")
    written = bounds(msgspec.structs.replace(places, write=(places.home / ".ssh",)))
    assert written.access(places.home / ".ssh" / "id") is WRITE
    both = (places.home / "cache",)
    assert hidden(bounds(msgspec.structs.replace(places, write=both, read=both, hide=both)), places, "cache/x")
    for path in (places.state, places.state / "turns", places.home / "other" / "secret"):
        with pytest.raises(ConfigFault, match="hidden from every turn"):
            bounds(msgspec.structs.replace(places, write=(path,)))
    with pytest.raises(ConfigFault, match="not there"):
        bounds(msgspec.structs.replace(places, write=(places.home / "nothing",)))
    with pytest.raises(ConfigFault, match="hidden from every turn"):
        bounds(places, ProgramHome(places.state / "claude"))


def test_what_the_mail_tools_run_from_stays_where_the_agent_writes_around_it(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, made, base = (places.workdir / name for name in ("src/agent_mailer", "venv", "python"))
    monkeypatch.setattr(agent_mailer, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(sys, "prefix", str(made))
    monkeypatch.setattr(sys, "base_prefix", str(base))
    found = bounds(places)
    assert found.access(places.workdir / "src" / "x") is WRITE
    assert [found.access(path / "x") for path in (package, made, base)] == [READ] * 3


def test_the_mailbox_is_written_where_a_person_says_so(places: Places) -> None:
    mail = places.workdir / "src" / "mail"
    hidden_one = msgspec.structs.replace(places, hidden=(mail,))
    assert bounds(hidden_one).access(mail / "x") is HIDE
    assert bounds(msgspec.structs.replace(hidden_one, mailbox=mail)).access(mail / "x") is WRITE


def test_a_link_of_the_agents_own_is_not_followed(places: Places) -> None:
    (places.workdir / "project").symlink_to(places.home / ".ssh")
    for changed in ({"project": places.workdir / "project"}, {"write": (places.workdir / "project" / "x",)}):
        with pytest.raises(ConfigFault, match="is a link"):
            bounds(msgspec.structs.replace(places, **changed))
    (project := places.home / "beside").mkdir()
    (project / "link").symlink_to(places.home / ".ssh")
    with pytest.raises(ConfigFault, match="is a link"):
        bounds(msgspec.structs.replace(places, project=project, read=(project / "link" / "x",)))
    # One of the user's, outside of what the agent writes, is.
    (places.home / "elsewhere").mkdir()
    (places.home / "link").symlink_to(places.home / "elsewhere")
    found = bounds(msgspec.structs.replace(places, project=places.home / "link"))
    assert found.access(places.home / "elsewhere" / "x") is WRITE


def test_folders_between_cannot_be_moved_away(places: Places) -> None:
    deep = places.workdir / "teams" / "b" / "other"
    deep.mkdir(parents=True)
    found = bounds(msgspec.structs.replace(places, hidden=(deep,)))
    ruled = {rule.path for rule in found.rules}
    assert {deep, deep.parent, deep.parent.parent} <= ruled


def test_settings_of_the_program_and_hooks_of_git_stay(places: Places) -> None:
    subprocess.run(["git", "init", "-q", str(places.workdir)], check=True)
    home = ProgramHome(
        places.home / "cache" / "claude", ("settings.json", "agents"), kept=("plugins",), hidden=("remote",)
    )
    for name in ("plugins", "remote"):
        (home.path / name).mkdir(parents=True)
    found = bounds(places, home)
    assert (found.access(home.path / "plugins" / "x"), found.access(home.path / "remote" / "x")) == (READ, HIDE)
    assert found.access(home.path / "projects") is WRITE
    assert found.access(home.path / "settings.json") is READ
    assert found.access(places.workdir / ".git" / "index.lock") is WRITE
    assert found.access(places.workdir / ".git" / "hooks" / "pre-commit") is READ
    assert found.access(places.workdir / ".git" / "config") is READ
    hooks = places.workdir / ".git" / "hooks"
    hooks.rename(hooks.with_name("away"))
    hooks.symlink_to(places.home)
    assert hooks not in {rule.path for rule in bounds(places).rules}, "no kind can name a link, and none starts"
    more = places.home / "more"
    subprocess.run(["git", "init", "-q", str(more)], check=True)
    for may_write in (True, False):
        found = bounds(msgspec.structs.replace(places, write=(more,), may_write=may_write))
        assert (found.access(more / "x"), found.access(more / ".git" / "hooks" / "x")) == (WRITE, READ)


OBEYED = {
    "claude": (
        *("settings.json", "CLAUDE.md", "agents/a.md", "commands/a.md", "skills/a/SKILL.md", "rules/a.md"),
        *("hooks/a.sh", "output-styles/a.md", "plugins/a/b.sh", "local/claude", "chrome/native-host", "workflows/a.js"),
        *("teams/a.json", "keybindings.json", "remote-settings.json", "scheduled_tasks.json"),
    ),
    "codex": (
        *("config.toml", "AGENTS.md", "hooks.json", "rules/a.rules", "prompts/a.md", "packages/codex", "bin/codex"),
        *("skills/a/SKILL.md", "plugins/a/b.sh", "agents/a.toml"),
    ),
}


@pytest.mark.parametrize("program", OBEYED)
def test_what_a_persons_own_sessions_of_the_program_run_and_obey_stays(places: Places, program: str) -> None:
    mode, env, folder = PermissionMode.ACCEPT_EDITS, {"HOME": str(places.home)}, places.home / f".{program}"
    for name in (*OBEYED[program], "sessions/a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    claude, codex = ClaudeRuntime(program, ClaudeOptions(mode), env), CodexRuntime(program, env, mode=mode)
    found = bounds(places, (claude if program == "claude" else codex).traits.home)
    assert {name: found.access(folder / name) for name in OBEYED[program]} == dict.fromkeys(OBEYED[program], READ)
    assert found.access(folder / "sessions" / "a") is WRITE


def test_a_git_folder_elsewhere_counts_only_by_its_own_word(places: Places) -> None:
    subprocess.run(["git", "init", "-q", str(places.home / "main")], check=True)
    elsewhere = places.home / "main" / ".git" / "worktrees" / "x"
    elsewhere.mkdir(parents=True)
    (elsewhere / "HEAD").write_text("ref: refs/heads/x\n")
    (elsewhere / "commondir").write_text("../..\n")
    (places.workdir / ".git").write_text(f"gitdir: {elsewhere}\n")
    (elsewhere / "gitdir").write_text("/somewhere/else/.git\n")
    assert bounds(places).access(elsewhere / "index") is not WRITE
    (elsewhere / "gitdir").write_text(f"{places.workdir}/.git\n")
    assert bounds(places).access(elsewhere / "index") is WRITE
    assert bounds(places).access(places.home / "main" / ".git" / "hooks" / "x") is READ
    assert bounds(msgspec.structs.replace(places, may_write=False)).access(elsewhere / "index") is not WRITE


def test_landlock_names_no_folder_in_which_something_is_hidden(places: Places) -> None:
    """Whatever is allowed with a folder is allowed with all below it: so the kernel must not hear of the folder."""
    (places.workdir / "link").symlink_to(places.home / ".ssh")
    found = bounds(places)
    launch = Landlock().around(Launch(("/bin/true",), {}, places.workdir), found)
    rights = {word[2:]: word[0] for word in launch.argv if word[:2] in ("r:", "w:")}
    hidden = [rule.path for rule in found.rules if rule.access is HIDE]
    for path in map(Path, rights):
        assert not any(one.is_relative_to(path) for one in hidden if one.exists()), path
        assert not path.is_symlink()
    assert rights[str(places.workdir / "src")] == "w"
    assert rights[str(found.tmp)] == "w"
    assert str(places.workdir) not in rights
    assert f"l:{places.workdir}" in launch.argv
    assert not [path for path in rights if Path(path).is_relative_to("/dev")], "terminals of the person are there"


def test_landlock_lets_python_find_us_in_a_folder_that_is_hidden(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is run from its source may lie in the temporary folder, which no turn sees; found by the folder's names."""
    package = places.home / "other" / "src" / "agent_mailer"
    package.mkdir(parents=True)
    monkeypatch.setattr(agent_mailer, "__file__", str(package / "__init__.py"))
    words = Landlock().around(Launch(("/bin/true",), {}, places.workdir), bounds(places)).argv
    assert {f"l:{package.parent}", f"r:{package}"} <= {*words}
    assert f"l:{package.parent.parent}" not in words


@pytest.mark.parametrize(
    ("network", "allowed"), [(Network.OFF, []), (Network.MODEL, ["127.0.0.1", "localhost", "api.example.org"])]
)
def test_srt_lets_a_turn_reach_what_its_network_says(places: Places, network: Network, allowed: list[str]) -> None:
    found = _settings(msgspec.structs.replace(bounds(places), network=network), ["api.example.org"], [])
    assert found["network"] == {"allowedDomains": allowed, "deniedDomains": [], "allowAllUnixSockets": False}


@pytest.mark.parametrize("path", [".", "bin:.", ""])
def test_no_program_of_where_we_stand_confines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """That may be a folder which an agent writes."""
    for folder in (tmp_path, tmp_path / "bin"):
        folder.mkdir(exist_ok=True)
        (folder / "bwrap").write_text("#!/bin/sh\n")
        (folder / "bwrap").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    found = sandbox_of(Kind.BWRAP, command=(), domains=(), workdir=tmp_path, path=path)
    assert found is not None
    assert found.programs() == ()


def test_an_old_kernel_is_told_and_named(places: Places) -> None:
    assert "ABI 2, and 3 is needed" in Landlock(abi=2).why_not(Network.ON)
    assert "has no Landlock" in Landlock(abi=0).why_not(Network.ON)
    assert Landlock(abi=3).why_not(Network.ON) == ""


def test_an_old_kernel_is_not_asked_for_what_it_cannot_hold(places: Places, tmp_path: Path) -> None:
    """bubblewrap with the network on then shares the sockets without a path, and promises nothing of them."""
    (tmp_path / "bwrap").write_text("#!/bin/sh\n")
    (tmp_path / "bwrap").chmod(0o755)
    found, launch = bounds(places), Launch(("/bin/true",), {}, places.workdir)
    off = msgspec.structs.replace(found, network=Network.OFF)
    old, new = (Bubblewrap(str(tmp_path), abi=abi) for abi in (5, 6))
    assert [Promise.ABSTRACT in kind.promises(at) for kind in (old, new) for at in (found, off)] == [False, *[True] * 3]
    assert Promise.SOCKETS in old.promises(found)
    assert [ABSTRACT_ONLY in kind.around(launch, at).argv for kind in (old, new) for at in (found, off)] == [
        *(False, False),
        *(True, False),
    ]
    assert Promise.SIGNALS not in Landlock(abi=5).promises(found)
    assert Promise.SIGNALS in Landlock(abi=6).promises(found)


def test_the_ssh_agent_counts_where_it_is_named(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "agent.sock"
    socket.touch()
    (places.home / ".ssh" / "known_hosts").touch()
    found = bounds(places, SSH_AUTH_SOCK=str(socket))
    assert found.sockets == (Path(os.path.realpath(socket)),)
    assert found.access(places.home / ".ssh" / "known_hosts") is READ
    assert hidden(found, places, ".ssh/id")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    unnamed = bounds(msgspec.structs.replace(places, read=(places.home,)))
    assert unnamed.sockets == ()
    assert unnamed.access(places.home / ".ssh" / "known_hosts") is HIDE


@pytest.mark.parametrize("own", [frozenset[str](), frozenset({"CARGO_HOME"})])
def test_packages_are_kept_where_the_agent_may_write_whatever_the_environment_says(
    tmp_path: Path, own: frozenset[str]
) -> None:
    """But what the user has set for the agent."""
    mine = {"PATH": "/bin", "XDG_CACHE_HOME": "/home/ann/.cache", "CARGO_HOME": "/home/ann/cargo"}
    places = Places(tmp_path, tmp_path, tmp_path, Path("/c"), own_variables=own)
    found = _with_caches(Launch(("x",), mine, tmp_path), places).env
    assert found == {
        "PATH": "/bin",
        "XDG_CACHE_HOME": "/c",
        "npm_config_cache": "/c/npm",
        "CARGO_HOME": "/home/ann/cargo" if own else "/c/cargo",
        "GOMODCACHE": "/c/go-mod",
    }
