"""What codex's sandbox lets through: which profile is asked for, when there is none, whose git folder is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent_mailer.runtimes.codex.adapter import CodexRuntime
from agent_mailer.runtimes.codex.policy import PROFILE, Ground, Policy, policy, read_trial, trial_words
from agent_mailer.runtimes.codex.program import version_of
from agent_mailer.runtimes.port import FENCE, Finding, PermissionMode, Reach

EDITS, PLAN, BYPASS = PermissionMode.ACCEPT_EDITS, PermissionMode.PLAN, PermissionMode.BYPASS_PERMISSIONS


class Place:
    """A workdir with its state and a turn, and a home with codex's folder; temporary files lie elsewhere."""

    def __init__(self, base: Path) -> None:
        self.workdir, self.home, self.state = base / "work", base / "home", base / "work" / ".agent-mailer"
        self.outbox = self.state / "turns" / "turn-1" / "outbox"
        self.state.mkdir(parents=True)  # the turn's folder is made later
        (self.home / ".codex").mkdir(parents=True)
        (base / "tmp").mkdir()
        self.env = {"HOME": str(self.home), "TMPDIR": str(base / "tmp")}
        (self.state / "config.toml").touch()
        (self.home / ".codex" / "auth.json").touch()
        (self.home / ".ssh").mkdir()
        self.reach = Reach(hidden=(self.state / "config.toml",), kept=(self.state,))

    def policy(self, mode: PermissionMode = EDITS, **changed: Any) -> Policy:
        around = {name: changed.get(name, False) for name in ("confined", "walled")}
        ground = Ground(self.workdir, changed.get("project_dir"), self.outbox, **around)
        version = changed.get("version", (0, 171, 0))
        reach, home = changed.get("reach", self.reach), changed.get("home", self.home / ".codex")
        return policy(mode, reach, ground, self.env, home, changed.get("extra", ()), version)

    def files(self, mode: PermissionMode = EDITS, **changed: Any) -> Mapping[str, str]:
        found: Mapping[str, str] = profile(self.policy(mode, **changed))["filesystem"]
        return found

    def git(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        git("init", "--quiet", str(folder))
        (folder / ".git" / "hooks").mkdir(exist_ok=True)
        return folder / ".git"


def git(*words: str) -> None:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, *words], check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def profile(given: Policy) -> dict[str, Any]:
    """The profile as codex reads it from the command line."""
    assert given.profile, given.why_not
    assert "-s" not in given.words
    values = [given.words[at + 1] for at, word in enumerate(given.words) if word == "-c"]
    tables = [tomllib.loads(value) for value in values]
    assert {"default_permissions": PROFILE} in tables
    found: dict[str, Any] = next(table for table in tables if "permissions" in table)["permissions"][PROFILE]
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_login_the_configuration_and_the_state_are_out_of_reach(place: Place) -> None:
    for name in (
        "work.config.toml",
        "more.config.toml",
        "state_5.sqlite",
        "state_5.sqlite-wal",
        "x.sqlite",
        "y.sqlite",
    ):
        (place.home / ".codex" / name).touch()
    for mode, base in ((EDITS, ":workspace"), (PLAN, ":read-only")):
        found = profile(place.policy(mode))
        assert {found["filesystem"].get(str(path)) for path in (place.home / ".codex").iterdir()} == {"deny"}
        assert (found["extends"], found["network"]) == (base, {"enabled": False})
        files = found["filesystem"]
        assert files[str(place.state)] == "read"
        assert files[str(place.state / "config.toml")] == "deny"
        assert files[str(place.outbox)] == "write"
        assert files[str(place.home / ".codex" / "auth.json")] == files[str(place.home / ".ssh")] == "deny"
        assert files[":slash_tmp"] == "read", "temporary files lie elsewhere"
        # Codex's own helper lies in there: denied, no command would start.
        assert str(place.home / ".codex") not in files


@pytest.mark.parametrize(
    "extra",
    [
        ("-s", "read-only"),
        ("-sread-only",),
        ("--sandbox=read-only",),
        ("-c", 'sandbox_mode="read-only"'),
        ("--config=default_permissions=mine",),
        ("-c", 'sandbox_workspace_write.writable_roots=["/x"]'),
        ("--yolo",),
    ],
)
def test_a_sandbox_chosen_by_hand_cancels_the_profile_and_is_said(extra: tuple[str, ...], place: Place) -> None:
    given = place.policy(extra=extra)
    assert (given.words, given.profile) == (("-s", "workspace-write"), False)
    assert "extra_args" in given.why_not


def test_the_network_of_an_older_configuration_is_opened_in_the_profile(place: Place) -> None:
    extra = ("-c", "sandbox_workspace_write.network_access=true")
    assert profile(place.policy(extra=extra))["network"] == {"enabled": True}
    assert profile(place.policy(PLAN, extra=extra))["network"] == {"enabled": False}
    off = ("-c", "sandbox_workspace_write.network_access=false")
    assert profile(place.policy(extra=off))["network"] == {"enabled": False}


def test_where_there_can_be_no_profile_there_is_the_sandbox_of_before(place: Place) -> None:
    assert place.policy(version=(0, 168, 9)).words == ("-s", "workspace-write")
    assert place.policy(PLAN, version=(0, 168, 9)).words == ("-s", "read-only")
    assert place.policy(version=None).profile
    assert "below" in place.policy(home=Path(place.env["TMPDIR"]) / "codex").why_not
    assert place.policy(BYPASS).words == ("--dangerously-bypass-approvals-and-sandbox",)
    walled = place.policy(walled=True)
    assert (walled.words, walled.profile) == (("-s", "danger-full-access"), False)


def test_a_turn_that_is_confined_already_denies_only_what_is_codexs_own(place: Place) -> None:
    """What is ours is not there within: codex could make no place to deny it."""
    folder = place.git(place.workdir)
    home = Path("/nowhere/codex")  # within, all of /tmp is the turn's own, and this test may run in it
    files = place.files(confined=True, home=home)
    ours = (place.state, place.state / "config.toml", place.home / ".ssh")
    assert not {str(path) for path in ours} & set(files)
    assert files[str(home / "auth.json")] == "deny"
    assert files[str(place.outbox)] == files[str(folder)] == "write"
    assert ":slash_tmp" not in files, "it is the turn's own"


def test_a_commit_writes_gits_folder_but_not_what_runs_by_itself(place: Place) -> None:
    assert str(place.workdir / ".git") not in place.files()
    folder = place.git(place.workdir)
    files = place.files()
    assert files[str(folder)] == "write"
    assert files[str(folder / "hooks")] == files[str(folder / "config")] == "read"
    assert str(folder) not in place.files(PLAN)
    project = place.git(place.home / "project")
    files = place.files(project_dir=project.parent)
    assert files[str(project.parent)] == files[str(project)] == files[str(folder)] == "write"


def test_the_git_folder_of_a_tree_around_the_workdir_is_found(place: Place, tmp_path: Path) -> None:
    folder = place.git(tmp_path)
    assert place.files()[str(folder)] == "write"
    tmp_path.chmod(0o777)
    assert str(folder) not in place.files(), "anybody may have put it there"


def test_a_worktree_writes_its_own_folder_and_the_common_one(place: Place, tmp_path: Path) -> None:
    common = place.git(tmp_path / "main")
    git("-C", str(common.parent), "commit", "--quiet", "--allow-empty", "-m", "first")
    place.state.rename(tmp_path / "aside")
    place.workdir.rmdir()
    git("-C", str(common.parent), "worktree", "add", "--quiet", str(place.workdir))
    (tmp_path / "aside").rename(place.state)
    own = common / "worktrees" / place.workdir.name
    (common / "modules").mkdir()
    for folder in (common, own):
        (folder / "config.worktree").touch()
    within = {Path(path): access for path, access in place.files().items() if Path(path).is_relative_to(common)}
    kept = [common / name for name in ("hooks", "config", "config.worktree", "modules")]
    kept += [own / name for name in ("commondir", "gitdir", "config.worktree")]
    assert within == {common: "write", own: "write"} | dict.fromkeys(kept, "read")


def test_a_git_folder_that_an_agent_has_made_opens_nothing(place: Place, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    other = place.git(victim)
    pointer = place.workdir / ".git"
    before = dict(place.files())
    for text in (f"gitdir: {victim}", f"gitdir: {other}", f"gitdir: {victim}/worktrees/x", "gitdir: /", "", "\0"):
        pointer.write_text(text)
        assert place.files() == before, text
    pointer.unlink()
    pointer.symlink_to(other)
    assert place.files() == before
    pointer.unlink()
    # A worktree of somebody else's, which does not name this folder.
    git("-C", str(victim), "commit", "--quiet", "--allow-empty", "-m", "first")
    git("-C", str(victim), "worktree", "add", "--quiet", str(tmp_path / "theirs"))
    pointer.write_text(f"gitdir: {other}/worktrees/theirs")
    assert place.files() == before
    pointer.unlink()
    place.git(place.workdir)
    shutil.rmtree(pointer / "hooks")
    assert place.files() == before, "hooks could be made"
    (pointer / "hooks").symlink_to(victim)
    assert place.files() == before
    (pointer / "hooks").unlink()
    (pointer / "hooks").mkdir()
    assert place.files() != before
    (pointer / "commondir").write_text(str(victim))
    assert place.files() == before, "git would take its configuration from elsewhere"


def test_all_that_is_hidden_or_kept_is_so_and_looked_at(place: Place, tmp_path: Path) -> None:
    hidden, kept = ([tmp_path / f"{what}-{number}" for number in range(3)] for what in ("hidden", "kept"))
    for path in (*hidden, *kept, *(place.home / name for name in (".aws", ".gnupg"))):
        path.mkdir()
    reach = Reach(hidden=tuple(hidden), kept=tuple(kept))
    files = place.files(reach=reach)
    secrets = [place.home / name for name in (".ssh", ".aws", ".gnupg")]
    assert {files.get(str(path)) for path in (*hidden, *secrets)} == {"deny"}
    assert {files.get(str(path)) for path in kept} == {"read"}
    looks = trial_words(EDITS, reach, Ground(place.workdir), place.env, place.home / ".codex")
    assert {f"r:{path}" for path in (*hidden, *secrets)} | {f"w:{path}" for path in kept} <= set(looks)


@pytest.mark.parametrize("name", ["hooks", "config", "objects", "refs"])
def test_a_git_folder_of_which_any_part_is_a_link_opens_nothing(place: Place, tmp_path: Path, name: str) -> None:
    before, folder = dict(place.files()), place.git(place.workdir)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert place.files() == before


def test_what_is_missing_is_denied_only_where_nobody_writes(place: Place) -> None:
    inside = place.workdir / "codex-home"
    inside.mkdir()
    files = place.files(home=inside)
    assert str(inside / "sessions") not in files
    (inside / "sessions").mkdir()
    assert place.files(home=inside)[str(inside / "sessions")] == "deny"
    assert str(place.home / ".codex" / "sessions") not in files


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        ("looked\n", []),
        ("WARNING: x\nit can read /home/a/.ssh\nlooked\n", ["it can read /home/a/.ssh"]),
        ("error: bwrap: no\n", None),
        ("", None),
    ],
)
def test_what_the_trial_of_the_sandbox_says(output: str, wrong: list[str] | None) -> None:
    assert read_trial(output) == wrong


def test_the_trial_looks_at_what_a_turn_must_not_touch(place: Place) -> None:
    words = trial_words(EDITS, place.reach, Ground(place.workdir), place.env, place.home / ".codex")
    command = words[words.index("--") + 1 :]
    done = subprocess.run(command, cwd=place.workdir, capture_output=True, text=True, check=True)
    # Without a sandbox all is in reach.
    wrong = read_trial(done.stdout) or []
    assert f"it can read {place.state}/config.toml" in wrong
    assert f"it can write {place.state}" in wrong
    assert f"it can read {place.home}/.codex/auth.json" in wrong
    assert not [line for line in wrong if "cannot" in line]
    plan = trial_words(PLAN, place.reach, Ground(place.workdir), place.env, place.home / ".codex")
    assert f"w:{place.workdir}" in plan


def test_the_version_is_read_from_the_package_the_program_lies_in(tmp_path: Path) -> None:
    package = tmp_path / "codex-linux-x64"
    program = package / "vendor" / "triple" / "bin" / "codex"
    program.parent.mkdir(parents=True)
    program.touch()
    assert version_of(program) is None
    (package / "package.json").write_text(json.dumps({"name": "@openai/codex", "version": "0.123.4-linux-x64"}))
    assert version_of(program) == (0, 123, 4)
    (package / "package.json").write_text(json.dumps({"name": "other", "version": "0.123.4"}))
    assert version_of(program) is None


def test_the_trial_tells_which_sandbox_there_will_be(tmp_path: Path) -> None:
    program = tmp_path / "codex"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    env = {"HOME": str(tmp_path), "PATH": os.defpath, "TMPDIR": "/nowhere"}

    def finding(mode: PermissionMode, output: str) -> Finding:
        runtime = CodexRuntime(str(program), env, mode=mode, reach=Reach())
        trial = next(probe for probe in runtime.probes(tmp_path) if probe.name == FENCE)
        return runtime.read_probe(trial, 0, output)

    assert finding(EDITS, "looked\n").ok
    wrong = finding(EDITS, "it can read /home/a/.ssh\nlooked\n")
    assert (wrong.ok, "/home/a/.ssh" in wrong.text, bool(wrong.fix)) == (False, True, True)
    assert not finding(PLAN, "error: unexpected argument '-P' found\n").ok
    assert "bypassPermissions" in finding(BYPASS, "the mode is bypassPermissions\n").text
