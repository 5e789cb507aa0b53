"""The folders of a root, and which root."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.maildir import layout
from agent_mailer.mailbox.maildir.layout import find_root
from agent_mailer.mailbox.maildir.leaving import rename_mailbox


class NewYear:
    def now(self) -> float:
        return 1767225600.25

    def monotonic(self) -> float:
        return 0.0


def modes(root: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*")) if path.is_dir()}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177])
def test_a_root_has_exactly_amqs_folders_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "root"
    before = os.umask(umask)
    try:
        layout.make_root(Disk(), root, ["bob", "alice"], NewYear())
    finally:
        os.umask(before)
    assert modes(root) == {0o700}
    leaves = {"inbox/tmp", "inbox/new", "inbox/cur", "outbox/sent", "dlq/tmp", "dlq/new", "dlq/cur", "receipts"}
    for handle in ("alice", "bob", "user"):
        home = root / "agents" / handle
        assert {leaf for leaf in leaves if (home / leaf).is_dir()} == leaves
        assert layout.check_mailbox(root, handle) == []
    config = root / "meta" / "config.json"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert config.read_text() == (
        '{\n  "version": 1,\n  "created_utc": "2026-01-01T00:00:00.250Z",\n'
        '  "agents": [\n    "alice",\n    "bob",\n    "user"\n  ]\n}\n'
    )


def test_a_handle_is_added_and_what_is_there_stays(tmp_path: Path) -> None:
    layout.make_root(Disk(), tmp_path, ["alice"])
    config = tmp_path / "meta" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "future": {"x": 1}}))
    (tmp_path / "agents" / "alice" / "inbox" / "new" / "m.md").write_text("mail")
    layout.add_handle(Disk(), tmp_path, "bob")
    layout.make_root(Disk(), tmp_path, ["carol"])
    assert layout.roster(tmp_path) == ("alice", "bob", "carol", "user")
    assert json.loads(config.read_text())["future"] == {"x": 1}
    assert (tmp_path / "agents" / "alice" / "inbox" / "new" / "m.md").read_text() == "mail"
    before = config.stat().st_mtime_ns
    layout.make_root(Disk(), tmp_path, ["carol"])
    assert config.stat().st_mtime_ns == before


def test_a_root_that_has_lost_its_roster_gets_another(tmp_path: Path) -> None:
    layout.make_root(Disk(), tmp_path, ["alice"])
    shutil.rmtree(tmp_path / "meta")
    layout.add_handle(Disk(), tmp_path, "bob")
    assert layout.roster(tmp_path) == ("bob",)


def test_repair_makes_what_is_missing_and_mends_modes(tmp_path: Path) -> None:
    layout.make_root(Disk(), tmp_path, ["alice"])
    home = tmp_path / "agents" / "alice"
    (home / "dlq" / "cur").rmdir()
    (home / "inbox").chmod(0o755)
    problems = layout.check_mailbox(tmp_path, "alice")
    assert len(problems) == 2
    assert "0755" in problems[0]
    layout.make_mailbox(Disk(), tmp_path, "alice")
    assert layout.check_mailbox(tmp_path, "alice") == []


@pytest.mark.parametrize("leaf", ["", "inbox", "inbox/new", "receipts"])
@pytest.mark.parametrize("what", ["link", "file", "dangling"])
def test_a_link_or_file_in_the_way_is_refused_by_name(tmp_path: Path, leaf: str, what: str) -> None:
    root = tmp_path / "root"
    layout.make_root(Disk(), root, [])
    path = root / "agents" / "alice" / leaf
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    if what == "file":
        path.write_text("")
    else:
        path.symlink_to(tmp_path / ("elsewhere" if what == "link" else "nowhere"))
    with pytest.raises(ConfigFault) as caught:
        layout.make_mailbox(Disk(), root, "alice")
    assert str(path) in caught.value.message
    assert str(path) in caught.value.fix
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("top", ["agents", "meta", "threads"])
@pytest.mark.parametrize("what", ["link", "file"])
def test_a_link_or_file_in_a_top_folders_place_is_refused(tmp_path: Path, top: str, what: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    if what == "file":
        (root / top).write_text("")
    else:
        (root / top).symlink_to(elsewhere)
    with pytest.raises(ConfigFault, match=str(root / top)):
        layout.make_root(Disk(), root, ["alice"])
    if top == "agents":
        with pytest.raises(ConfigFault):
            layout.require_root(root)
    assert list(elsewhere.iterdir()) == []


def test_what_is_made_is_durable_with_its_name(tmp_path: Path) -> None:
    synced: set[str] = set()

    class Noting(SystemCalls):
        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            path = Path(f"/proc/self/fd/{fd}").readlink().relative_to(tmp_path)
            synced.add(re.sub(r"\.tmp\.(.+)\..{12}", r"\1", str(path)))

    def of(handle: str) -> set[str]:
        return {f"root/agents/{handle}{leaf}" for leaf in ("", "/inbox", "/outbox", "/dlq")} | {"root/agents"}

    roster = {"root/meta", "root/meta/config.json"}
    layout.make_root(Disk(Noting()), tmp_path / "root", ["alice"])
    assert synced == {".", "root"} | roster | of("alice") | of("user")
    synced.clear()
    layout.add_handle(Disk(Noting()), tmp_path / "root", "bob")
    assert synced == roster | of("bob")


def test_a_message_is_looked_for_in_every_mailbox_on_the_roster_or_not(tmp_path: Path) -> None:
    layout.make_root(Disk(), tmp_path, ["alice"])
    layout.make_mailbox(Disk(), tmp_path, "unlisted")
    folders = layout.message_folders(tmp_path)
    for handle in ("alice", "unlisted", "user"):
        box = layout.Paths(tmp_path, handle)
        assert {box.new, box.cur, box.sent} <= {*folders}


@pytest.mark.parametrize("handle", ["", "-a", "A", "a/b", "..", "a b", "a\n", "ü", "a" * 300])
def test_a_bad_handle_makes_no_folder(tmp_path: Path, handle: str) -> None:
    with pytest.raises(ConfigFault):
        layout.make_root(Disk(), tmp_path / "root", [handle])
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("handle", ["a", "0", "_x", "a-b_c", "user"])
def test_amqs_handles_are_accepted(handle: str) -> None:
    layout.check_handle(handle)


def test_a_session_has_its_bases_roster(tmp_path: Path) -> None:
    layout.make_root(Disk(), tmp_path, ["alice"])
    session = tmp_path / "collab"
    (session / "agents").mkdir(parents=True)
    (session / "meta").mkdir()
    assert layout.roster(session) == ("alice", "user")
    layout.add_handle(Disk(), session, "bob")
    assert layout.roster(tmp_path) == ("alice", "bob", "user")
    assert (session / "agents" / "bob" / "inbox" / "new").is_dir()
    assert not (session / "meta" / "config.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_broken_roster_is_named(tmp_path: Path, content: str) -> None:
    layout.make_root(Disk(), tmp_path, ["alice"])
    (tmp_path / "meta" / "config.json").write_text(content)
    with pytest.raises(ConfigFault, match=r"config\.json"):
        layout.roster(tmp_path)


def test_who_is_known(tmp_path: Path) -> None:
    layout.make_root(Disk(), tmp_path, ["alice"])
    layout.make_mailbox(Disk(), tmp_path, "unlisted")
    (tmp_path / "agents" / "linked").symlink_to("alice")
    for handle in ("alice", "user", "unlisted"):
        assert layout.known(tmp_path, handle)
    for handle in ("bob", "linked"):
        assert not layout.known(tmp_path, handle)
    assert layout.mailboxes(tmp_path) == ("alice", "unlisted", "user")


def test_the_flag_comes_before_everything(tmp_path: Path) -> None:
    environ = {"AM_ROOT": str(tmp_path / "env")}
    assert find_root(tmp_path / "flag", environ, tmp_path) == tmp_path / "flag"
    assert find_root(Path("flag/../other"), environ, tmp_path) == tmp_path / "other"
    assert find_root(None, environ, tmp_path) == tmp_path / "env"
    assert find_root(None, {"AM_ROOT": "rel"}, tmp_path) == tmp_path / "rel"


def test_the_nearest_amqrc_counts_up_to_the_top_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / ".amqrc").write_text('{"root": "outside"}')
    project = tmp_path / "project"
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    assert find_root(None, {"AM_ROOT": ""}, deep) == tmp_path / "outside"
    (project / ".git").write_text("gitdir: elsewhere")
    assert find_root(None, {}, deep) == project / ".agent-mail"
    (project / ".amqrc").write_text('{"root": "mail", "project": "p"}')
    assert find_root(None, {}, deep) == project / "mail"
    (project / "a" / ".amqrc").write_text(json.dumps({"root": str(tmp_path / "abs")}))
    assert find_root(None, {}, deep) == tmp_path / "abs"


def test_the_homes_amqrc_is_no_projects(tmp_path: Path) -> None:
    (tmp_path / ".amqrc").write_text('{"root": "home"}')
    (tmp_path / ".git").mkdir()
    assert find_root(None, {"HOME": str(tmp_path)}, tmp_path) == tmp_path / ".agent-mail"
    assert find_root(None, {"HOME": "/elsewhere"}, tmp_path) == tmp_path / "home"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Path]:
    """`tmp_path` by a name with nobody's tree or mailbox above it, wherever temporary folders lie here."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield Path(f"/proc/self/fd/{fd}")
    os.close(fd)


def test_outside_git_an_existing_folder_counts(alone: Path) -> None:
    deep = alone / "a" / "b"
    deep.mkdir(parents=True)
    (alone / ".agent-mail").mkdir()
    assert find_root(None, {}, deep) == alone / ".agent-mail"
    (alone / ".agent-mail").rmdir()
    with pytest.raises(ConfigFault) as caught:
        find_root(None, {}, deep)
    assert "--maildir-root" in caught.value.fix


@pytest.mark.parametrize(
    "fault", ["link", "folder", "fifo", "group", "world", "torn", "no root", "list", "number", "nul"]
)
def test_an_amqrc_that_is_not_to_be_trusted_is_refused(tmp_path: Path, fault: str) -> None:
    amqrc = tmp_path / ".amqrc"
    texts = {"torn": "{", "no root": "{}", "list": "[]", "number": '{"root": 7}', "nul": '{"root": "a\\u0000"}'}
    if fault == "link":
        (tmp_path / "real").write_text('{"root": "x"}')
        amqrc.symlink_to("real")
    elif fault == "folder":
        amqrc.mkdir()
    elif fault == "fifo":
        os.mkfifo(amqrc)
    else:
        amqrc.write_text(texts.get(fault, '{"root": "x"}'))
        amqrc.chmod({"group": 0o620, "world": 0o602}.get(fault, 0o600))
    with pytest.raises(ConfigFault) as caught:
        find_root(None, {}, tmp_path)
    assert str(amqrc) in caught.value.message
    assert "--maildir-root" in caught.value.fix


def test_somebody_elses_amqrc_is_refused(tmp_path: Path) -> None:
    amqrc = tmp_path / ".amqrc"
    amqrc.write_text('{"root": "x"}')
    try:
        os.chown(amqrc, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a file away")
    with pytest.raises(ConfigFault, match="somebody else"):
        find_root(None, {}, tmp_path)


@pytest.mark.parametrize("planted", [".agent-mail", ".amqrc", ".git"])
@pytest.mark.parametrize("how", ["open", "sticky", "shared group", "somebody else's"])
def test_what_others_may_have_planted_above_is_no_root(tmp_path: Path, planted: str, how: str) -> None:
    """Without a root of its own the search goes upward, through folders in which anybody may put one."""
    public, deep = tmp_path / "public", tmp_path / "public" / "ours" / "deep"
    deep.mkdir(parents=True)
    (public / ".agent-mail").mkdir(0o700)
    if planted == ".amqrc":
        (public / ".amqrc").write_text(json.dumps({"root": ".agent-mail"}))
        (public / ".amqrc").chmod(0o600)
    elif planted == ".git":
        (public / ".git").mkdir()
    if how == "open":
        public.chmod(0o777)
    elif how == "shared group":
        if os.geteuid() != 0:
            pytest.skip("only root gives a folder to a group that is not its own")
        os.chown(public, -1, 12345)
        public.chmod(0o775)
    elif os.geteuid() != 0:
        pytest.skip("only root gives a folder away")
    else:
        public.chmod(0o1777)
        for path in (public / planted, *([public / ".agent-mail"] if how == "sticky" else [public])):
            os.chown(path, 12345, -1)
    with pytest.raises(ConfigFault) as caught:
        find_root(None, {"HOME": str(tmp_path)}, deep)
    assert caught.value.code in ("no_maildir_root", "bad_amqrc")
    assert str(public) in caught.value.message
    assert "--maildir-root" in caught.value.fix


def test_what_is_ours_in_a_sticky_folder_counts(tmp_path: Path) -> None:
    """As below /tmp: nobody else can take its place."""
    public = tmp_path / "public"
    (public / "ours").mkdir(parents=True)
    (public / ".agent-mail").mkdir(0o700)
    public.chmod(0o1777)
    assert find_root(None, {}, public / "ours") == public / ".agent-mail"


def test_the_search_ends_at_the_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "agents").mkdir(parents=True)
    (tmp_path / ".agent-mail").mkdir(0o700)
    assert find_root(None, {}, home / "agents") == tmp_path / ".agent-mail"
    with pytest.raises(ConfigFault):
        find_root(None, {"HOME": str(home)}, home / "agents")
    (home / ".agent-mail").mkdir(0o700)
    assert find_root(None, {"HOME": str(home)}, home / "agents") == home / ".agent-mail"


def test_the_search_ends_where_another_file_system_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder above that is of another device: the mount of a removable disk, say."""
    mounted = tmp_path / "mounted"
    (mounted / "deep").mkdir(parents=True)
    (tmp_path / ".agent-mail").mkdir(0o700)
    real = os.stat

    def stat_of(path: Any, **how: Any) -> os.stat_result:
        found = real(path, **how)
        if str(path) == str(tmp_path):
            return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))
        return found

    assert find_root(None, {}, mounted / "deep") == tmp_path / ".agent-mail"
    monkeypatch.setattr(os, "stat", stat_of)
    with pytest.raises(ConfigFault):
        find_root(None, {}, mounted / "deep")


def test_a_git_folder_where_anybody_may_put_one_is_no_top(tmp_path: Path) -> None:
    """Whoever leaves one in /tmp stops nobody who works below."""
    public = tmp_path / "public"
    (public / "ours" / "deep").mkdir(parents=True)
    (public / ".git").mkdir()
    (public / "ours" / ".agent-mail").mkdir(0o700)
    public.chmod(0o1777)
    assert find_root(None, {}, public / "ours" / "deep") == public / "ours" / ".agent-mail"


@pytest.mark.parametrize(("before", "after"), [("../x", "bob"), ("alice", "../x"), ("alice", "Bob")])
def test_nothing_is_renamed_from_or_to_what_no_mailbox_can_be_called(tmp_path: Path, before: str, after: str) -> None:
    layout.make_root(Disk(), tmp_path / "root", ["alice"])
    everything = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigFault):
        rename_mailbox(Disk(), tmp_path / "root", before, after)
    assert sorted(tmp_path.rglob("*")) == everything
