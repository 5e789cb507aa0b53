"""Addresses beyond our own root, and what passes for ours on the way there (SPEC 8.3)."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.amq_tree import Project, mailbox
from tests.refusing import without_descriptors

from agent_mailer.mailbox.maildir.layout import REQUIRED
from agent_mailer.mailbox.maildir.routes import Address, base_of, check, find, parse_address, places, session_of
from agent_mailer.mailbox.port import MailboxUnavailable, NoWay, Refused, Route

ADDRESSES = {
    "bob": Address("bob"),
    "bob@web": Address("bob", "web"),
    "infra:bob": Address("bob", "", "infra"),
    "infra:bob@web": Address("bob", "web", "infra"),
    "bob@infra:web": Address("bob", "web", "infra"),
    "bob@infra:": Address("bob", "", "infra"),
    "My Project:bob@web": Address("bob", "web", "My Project"),
    "a:b:bob@web": Address("bob", "web", "a:b"),
    "bob@@web": None,
    "bob@": None,
    "@web": None,
    "": None,
    "Bob": None,
    "../x": None,
    "bob@../x": None,
    "bob@web/x": None,
    "bob@-web": None,
    "b" * 300: None,
    f"bob@{'w' * 300}": None,
    "bob\n": None,
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_names_a_handle_and_where_it_is(text: str) -> None:
    assert parse_address(text) == ADDRESSES[text]


@pytest.fixture
def shop(tmp_path: Path) -> Project:
    tmp_path.chmod(0o755)
    Project(tmp_path / "infra", "bob")
    return Project(tmp_path / "shop", "bob", "coder", name="shop", peers={"infra": "../infra/.agent-mail"})


def way(shop: Project, text: str = "infra:bob@collab") -> Route | NoWay | None:
    return find(shop.collab, "coder", text)


def test_a_session_is_a_folder_right_below_its_base(shop: Project, tmp_path: Path) -> None:
    assert (session_of(shop.collab), base_of(shop.collab)) == ("collab", shop.base)
    assert (session_of(shop.base), base_of(shop.base)) == ("", None)
    shop.base.rename(tmp_path / "queue")
    assert session_of(tmp_path / "queue/collab") == "collab", "the base has a roster"
    (tmp_path / "queue/meta/config.json").unlink()
    assert session_of(tmp_path / "queue/collab") == ""
    (tmp_path / ".amqrc").write_text('{"root": "queue"}')
    assert session_of(tmp_path / "queue/collab") == "collab", ".amqrc says so"


def test_looking_for_a_way_makes_nothing(shop: Project, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for text in ("stranger@web", "infra:stranger@collab", "infra:bob@moon"):
        assert isinstance(find(shop.collab, "coder", text), NoWay)
    assert isinstance(find(shop.collab, "coder", "stranger@web", "stranger"), Route)
    assert isinstance(way(shop), Route)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_search_for_peers_ends_at_the_top_of_the_git_tree(shop: Project) -> None:
    (shop.top / ".amqrc").rename(shop.top.parent / ".amqrc")
    (shop.top / ".git").mkdir()
    found = way(shop)
    assert isinstance(found, NoWay)
    assert "no .amqrc above" in found.why


def test_a_root_that_is_a_git_tree_itself_hides_no_peers(shop: Project) -> None:
    for root in (shop.base, shop.collab):
        (root / ".git").mkdir()
    assert isinstance(way(shop), Route)


def test_the_homes_own_file_is_a_project_only_where_it_says_so(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shop.top))
    shop.amqrc("", {"infra": "../infra/.agent-mail"})
    assert isinstance(way(shop), NoWay)
    shop.amqrc("shop", {"infra": "../infra/.agent-mail"})
    assert isinstance(way(shop), Route)


def test_a_project_without_a_name_has_its_folders(shop: Project) -> None:
    shop.amqrc("", {"infra": "../infra/.agent-mail"})
    found = way(shop)
    assert isinstance(found, Route)
    assert found.back == "shop:coder@collab"


def test_a_folder_in_which_only_owners_rename_may_lie_above_a_peer(shop: Project, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert isinstance(way(shop), Route)
    tmp_path.chmod(0o777)
    found = way(shop)
    assert isinstance(found, NoWay)
    assert f"{tmp_path} can be written by others" in found.why


def test_ones_own_group_may_write_and_another_may_not(shop: Project, tmp_path: Path) -> None:
    user = pwd.getpwuid(os.geteuid())
    private = grp.getgrgid(user.pw_gid).gr_name == user.pw_name and not grp.getgrgid(user.pw_gid).gr_mem
    (tmp_path / "infra").chmod(0o775)
    assert isinstance(way(shop), Route if private else NoWay)
    if os.geteuid() == 0:
        os.chown(tmp_path / "infra", 0, grp.getgrnam("users").gr_gid)
        assert isinstance(way(shop), NoWay)


def test_a_group_of_the_users_name_that_others_are_in_may_not(
    shop: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.getpwuid(os.geteuid())
    (tmp_path / "infra").chmod(0o775)
    for members in ([], [user.pw_name], [user.pw_name, "eve"]):
        group = grp.struct_group((user.pw_name, "x", user.pw_gid, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, group=group: group)
        assert isinstance(way(shop), NoWay if "eve" in members else Route)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_what_belongs_to_somebody_else_is_not_ours_though_he_alone_may_write(shop: Project, tmp_path: Path) -> None:
    os.chown(tmp_path / "infra", 12345, 12345)
    found = way(shop)
    assert isinstance(found, NoWay)
    assert "belongs to somebody else (user 12345)" in found.why


def test_a_way_that_cannot_be_looked_for_just_now_is_not_none(shop: Project) -> None:
    with without_descriptors(), pytest.raises(MailboxUnavailable, match="Too many open files"):
        way(shop)
    assert isinstance(way(shop), Route)


def test_the_search_for_peers_ends_where_another_file_system_begins(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.lstat

    def lstat_of(path: Any) -> os.stat_result:
        found = real(path)
        if str(path) == str(shop.top):
            return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))
        return found

    monkeypatch.setattr(os, "lstat", lstat_of)
    found = way(shop)
    assert isinstance(found, NoWay)
    assert "no .amqrc above" in found.why


def test_a_peer_below_a_link_of_ours_counts_and_below_anothers_does_not(shop: Project, tmp_path: Path) -> None:
    (tmp_path / "infra").rename(tmp_path / "real")
    (tmp_path / "infra").symlink_to("real")
    assert isinstance(way(shop), Route)
    if os.geteuid() == 0:
        os.chown(tmp_path / "infra", 12345, 12345, follow_symlinks=False)
        assert isinstance(way(shop), NoWay)


def test_what_lies_above_the_end_of_a_link_counts_too(shop: Project, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir(mode=0o755)
    (tmp_path / "infra").rename(tmp_path / "deep/infra")
    (tmp_path / "infra").symlink_to("deep/infra")
    assert isinstance(way(shop), Route)
    (tmp_path / "deep").chmod(0o777)
    found = way(shop)
    assert isinstance(found, NoWay)
    assert f"{tmp_path / 'deep'} can be written by others" in found.why


def test_in_a_base_that_others_may_write_a_session_may_be_anybodys(shop: Project) -> None:
    assert isinstance(find(shop.collab, "coder", "bob@web"), Route)
    shop.base.chmod(0o777)
    assert isinstance(find(shop.collab, "coder", "bob@web"), NoWay)


def test_mail_is_looked_for_in_what_is_ours_alone(shop: Project, tmp_path: Path) -> None:
    infra = tmp_path / "infra/.agent-mail"
    theirs = [infra, infra / "collab", infra / "web"]
    assert [*places(shop.collab)] == [shop.collab, shop.base, shop.web, *theirs]
    shop.web.chmod(0o777)
    assert [*places(shop.collab)] == [shop.collab, shop.base, *theirs]
    infra.chmod(0o777)
    assert [*places(shop.collab)] == [shop.collab, shop.base]


def test_mail_is_looked_for_in_every_project_that_is_named(shop: Project, tmp_path: Path) -> None:
    named = {name: f"../{name}/.agent-mail" for name in ("infra", "docs", "api")}
    for name in named:
        Project(tmp_path / name, "bob")
    shop.amqrc("shop", named)
    bases = [tmp_path / name / ".agent-mail" for name in named]
    assert set(places(shop.base)) >= {*bases, *(base / "web" for base in bases)}


@pytest.mark.parametrize("leaf", REQUIRED)
def test_a_sender_whose_mailbox_is_none_has_no_way_back(shop: Project, leaf: str) -> None:
    path = mailbox(shop.base, "odd") / leaf
    assert find(shop.base, "coder", "odd") is None
    if path.exists():
        path.rename(shop.top / "moved")
    path.write_text("no folder")
    found = find(shop.base, "coder", "odd")
    assert isinstance(found, NoWay)
    assert found.why.startswith("the mailbox of odd cannot be used: ")
    path.unlink()


def _replaced(place: Path) -> None:
    place.rename(place.with_name("moved"))
    shutil.copytree(place.with_name("moved"), place)


CHANGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "replaced by its copy": (_replaced, "is another folder"),
    "open to others": (lambda place: place.chmod(0o777), "can be written by others"),
    "a link in its mailbox": (lambda place: _linked(place / "agents/bob/inbox/new"), "is a link"),
    "without its mailbox": (lambda place: shutil.rmtree(place / "agents/bob"), "has no mailbox"),
}


def _linked(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


@pytest.mark.parametrize("what", CHANGED)
def test_a_way_that_was_found_is_gone_once_its_end_has_changed(shop: Project, what: str) -> None:
    found = way(shop)
    assert isinstance(found, Route)
    assert check(shop.collab, found) is None
    change, why = CHANGED[what]
    change(Path(found.place))
    refused = check(shop.collab, found)
    assert isinstance(refused, Refused)
    assert why in refused.why


def test_the_same_number_on_another_device_is_another_folder(shop: Project) -> None:
    found = way(shop)
    assert isinstance(found, Route)
    other = msgspec.structs.replace(found, device=found.device + 1)
    assert isinstance(check(shop.collab, other), Refused)


def test_an_end_that_is_not_there_just_now_is_waited_for(shop: Project) -> None:
    found = way(shop)
    assert isinstance(found, Route)
    Path(found.place).rename(shop.base / "away")
    with pytest.raises(MailboxUnavailable):
        check(shop.collab, found)
