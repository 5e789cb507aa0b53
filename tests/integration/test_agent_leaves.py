"""An agent is removed, moved, or written to by another name: nothing that it had is lost, and nobody writes in vain."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.crash.world import Weather
from tests.desk import Desk, outcomes, until
from tests.refusing import Died, On, Refusing
from tests.sizes import LONG, sizes
from tests.typed import Typed, type_in

from agent_mailer.assemble import Workplace
from agent_mailer.desk.asking import watched
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.maildir.layout import mailboxes, make_root, roster
from agent_mailer.mailbox.maildir.leaving import rename_mailbox
from agent_mailer.mailbox.port import Envelope
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive
from agent_mailer.service.folder import Units
from agent_mailer.service.unit import Instance
from agent_mailer.setup.leaving import move, remove, rename
from agent_mailer.state.lock import holder_of
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.state.workdirs import known_workdirs, remember, user_state

SEND = ("send", "coder", "x", "--maildir-root")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    remember(desk.workdir)
    return desk


def at(desk: Desk, *words: str | Path) -> Typed:
    return type_in(desk.workdir, *words)


def test_who_is_removed_leaves_what_it_had_and_no_mailbox(desk: Desk) -> None:
    desk.send("read me", thread="one")
    asked = at(desk, "agent", "remove")
    assert asked.status == 2
    assert "nothing was changed" in asked.err
    assert "agent remove --yes -C" in asked.err
    done = at(desk, "agent", "remove", "--yes")
    assert done.status == 0, done.err
    assert "waits     1 message not worked on yet" in done.err
    [kept] = (user_state() / "removed").glob("coder-*")
    assert str(kept) in done.out
    assert [b"read me" in path.read_bytes() for path in (kept / "mail").glob("inbox/new/*")] == [True]
    assert (kept / "state" / "config.toml").is_file()
    assert not desk.state.exists()
    assert mailboxes(desk.root) == ("planner", "user")
    refused = type_in(desk.base, *SEND, desk.root)
    assert refused.status != 0
    assert "known are: planner, user" in refused.err
    assert known_workdirs(desk.place().disk).all() == []


def test_what_goes_to_another_disk_is_durable_there_before_it_goes_here(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send("read me", thread="one")
    place = desk.place()
    place.disk.system = Refusing("removed/*/*", On.COME, code=errno.EXDEV)
    synced: list[list[bool]] = []

    def look() -> None:
        [kept] = (user_state() / "removed").iterdir()
        mail = [*desk.root.glob("agents/coder/inbox/new/*"), *kept.glob("mail/inbox/new/*")]
        config = [desk.state / "config.toml", kept / "state" / "config.toml"]
        synced.append([b"read me" in path.read_bytes() for path in mail] + [path.exists() for path in config])

    monkeypatch.setattr(os, "sync", look)
    removed = remove(place, {})
    assert synced == [[True, True, True, False], [True, True, True]]
    assert removed.mail
    assert not (desk.root / "agents" / "coder").exists()
    assert not desk.state.exists()
    assert (removed.kept / "state" / "config.toml").is_file()


@pytest.mark.parametrize(
    ("way", "folder", "after"),
    [
        ("remove", "agents", 0),
        ("remove", "meta", 1),
        ("remove", "removed/*", 0),
        ("rename", "agents", 0),
        ("rename", "meta", 1),
    ],
)
def test_nobody_goes_on_before_it_is_durable_that_the_mailbox_has_left(
    desk: Desk, way: str, folder: str, after: int
) -> None:
    """A power failure would bring it back under a name by which nobody looks for it."""
    place, config = desk.place(), desk.root / "meta" / "config.json"
    before = config.read_text()
    place.disk.system = Refusing(folder, On.SYNC, code=errno.EIO, after=after)
    with pytest.raises((OSError, ConfigFault), match="Input/output error"):
        remove(place, {}) if way == "remove" else rename(place, "poet", {})
    assert desk.place().handle == "coder"
    assert (config.read_text() == before) == (folder != "meta")


def test_of_a_session_the_list_of_its_base_counts(tmp_path: Path) -> None:
    root = tmp_path / "base" / "one"
    for place in (root.parent, root):
        make_root(Disk(), place, ["coder"])
    assert rename_mailbox(Disk(), root, "coder", "poet")
    assert (mailboxes(root), roster(root.parent)) == (("poet", "user"), ("poet", "user"))
    assert not (root / "meta" / "config.json").exists()


@pytest.mark.parametrize("way", ["remove", "rename"])
def test_whom_the_list_of_handles_names_still_has_not_left_until_it_is_said_again(desk: Desk, way: str) -> None:
    """Mail to it would be taken, into a mailbox that nobody reads."""
    place, config = desk.place(), desk.root / "meta" / "config.json"
    before = config.read_text()

    def leave(place: Workplace) -> None:
        remove(place, {}) if way == "remove" else rename(place, "poet", {})

    place.disk.system = Refusing("meta/config.json", On.REPLACE, code=errno.EROFS)
    with pytest.raises(ConfigFault, match="it names coder still"):
        leave(place)
    assert desk.state.exists()
    assert desk.place().handle == "coder"
    assert config.read_text() == before
    leave(desk.place())
    assert desk.state.exists() == (way == "rename")
    left = ("planner", "user") if way == "remove" else ("planner", "poet", "user")
    assert mailboxes(desk.root) == tuple(json.loads(config.read_text())["agents"]) == left


def test_who_has_another_address_is_written_to_there_and_nowhere_else(desk: Desk) -> None:
    desk.send("x", thread="one")
    assert at(desk, "agent", "rename", "planner").status == 2, "that is somebody else's"
    config = desk.root / "meta" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"theirs": 1}))
    said = at(desk, "agent", "rename", "poet")
    assert said.out.splitlines()[0] == "address   coder -> poet"
    assert mailboxes(desk.root) == ("planner", "poet", "user")
    listed = json.loads(config.read_text())
    assert "coder" not in listed["agents"]
    assert listed["theirs"] == 1, "a key that we do not know"
    assert "known are: planner, poet, user" in type_in(desk.base, *SEND, desk.root).err
    desk.settings["address"] = "poet"
    assert outcomes(desk.once()) == ["done"]
    assert desk.inbox()[0].envelope.sender == "poet"


def test_a_new_address_in_the_configuration_alone_is_warned_of(desk: Desk) -> None:
    said = at(desk, "config", "set", "address", "poet")
    assert "mail to coder still lands in its mailbox" in said.err
    assert "config set address coder, then: agent-mailer agent rename poet" in said.err


def test_who_is_moved_goes_on_there(desk: Desk) -> None:
    desk.configure(project_dir=str(desk.workdir / "src"), api_key="amk_secret")
    (desk.workdir / "src").mkdir()
    before = desk.place().trust.verdict
    assert not before.changed
    target = desk.base / "poems"
    assert at(desk, "agent", "move", desk.workdir / "inner").status == 2
    assert at(desk, "agent", "move", desk.root).status == 2, "something is there"
    said = at(desk, "agent", "move", "../poems")
    assert said.status == 0, said.err
    assert not desk.workdir.exists()
    assert f"project_dir: {desk.workdir}/src -> {target}/src" in said.out
    desk.workdir, desk.state = target, target / ".agent-mailer"
    assert not desk.place().trust.verdict.changed
    assert known_workdirs(desk.place().disk).all() == [target]
    desk.send("x")
    assert outcomes(desk.once()) == ["done"]


def test_whatever_key_names_a_folder_in_the_workdir_goes_along(desk: Desk) -> None:
    """A program whose home is looked for at the old place is signed out, and makes a new one there."""
    target = desk.base / "poems"
    below = {key: f"own/{key}" for key in ("maildir_root", "project_dir", "config_home")}
    for path in below.values():
        (desk.workdir / path).mkdir(parents=True)
    make_root(desk.disk, desk.workdir / below["maildir_root"], ["coder"])
    desk.configure(**{key: str(desk.workdir / path) for key, path in below.items()})
    desk.place().trust.remember()
    said = move(desk.place(), target, {})
    moved = Workplace(target)
    assert {key: getattr(moved.config, key) for key in below} == {
        key: f"{target}/{path}" for key, path in below.items()
    }
    assert [line.split()[1] for line in said[1:]] == [f"{key}:" for key in below]
    assert not moved.trust.verdict.changed


def test_what_lies_elsewhere_stays_there_when_a_workdir_is_moved(desk: Desk) -> None:
    places = {"project_dir": f"{desk.workdir}-of-another", "config_home": "~/own"}
    desk.configure(**places)
    assert len(move(desk.place(), desk.base / "poems", {})) == 1
    config = Workplace(desk.base / "poems").config
    assert {key: getattr(config, key) for key in places} == places
    assert config.maildir_root == str(desk.root)


def process_of(desk: Desk) -> list[ProcessIdentity]:
    """Of the one turn, once it runs."""
    turns = desk.place().state.turns
    return [record.process for turn in turns.ids() if (record := turns.load(turn)) is not None and record.process]


class Watched(Weather):
    """Sees at each step whether somebody else could begin to work there, and dies at the one that is chosen."""

    def __init__(self, desk: Desk, dies_in: int | None) -> None:
        super().__init__()
        self.desk = desk
        self.dies_in = dies_in
        self.held: list[bool] = []

    def replace(self, source: Path, target: Path) -> None:
        self.held.append(watched(self.desk.place()))
        super().replace(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        self.held.append(watched(self.desk.place()))
        super().rename_noreplace(source, target)


@pytest.mark.parametrize("stride", sizes(quick=3, long=1))
@pytest.mark.parametrize("way", ["remove", "rename"])
def test_killed_anywhere_on_its_way_it_is_known_by_one_name_or_none_once_it_is_said_again(
    tmp_path: Path, way: str, stride: int
) -> None:
    for number, dies_in in enumerate(count(2, stride)):
        base = tmp_path / str(dies_in)
        base.mkdir()
        desk = Desk(base)
        desk.send("read me", thread="one")
        died = False
        for system in (Watched(desk, dies_in), Watched(desk, None)):
            place = desk.place()
            place.trust.remember()
            place.disk.system = system
            if place.handle != "coder":
                break
            try:
                remove(place, {}) if way == "remove" else rename(place, "poet", {})
            except Died:
                died = True
            assert all(system.held), "nobody begins to work there meanwhile"
            if not desk.state.exists():
                break
        name, where = ("poet", desk.root / "agents/poet") if way == "rename" else ("", user_state() / "removed")
        assert mailboxes(desk.root) == tuple(sorted({"planner", "user", name} - {""})), dies_in
        listed = json.loads((desk.root / "meta" / "config.json").read_text())["agents"]
        assert ("coder" in listed, name in listed) == (False, bool(name)), dies_in
        mail = [path for path in where.glob("**/inbox/new/*.md") if b"read me" in path.read_bytes()]
        assert len(mail) == (1 if way == "rename" else number + 1), dies_in
        assert desk.state.exists() == bool(name), dies_in
        if name:
            assert desk.place().handle == name, dies_in
        if not died:
            break
    assert number > 1
    if way == "remove":
        assert not desk.place().trust.keeper.path(desk.workdir).exists(), "what it was trusted with is nobody's"


def test_who_has_a_service_or_a_turn_that_runs_keeps_all_as_it_is(desk: Desk, home: Path) -> None:
    ways = (("remove", "--yes"), ("move", "../poems"), ("rename", "poet"))
    units = Units(home / ".config/systemd/user", Disk())
    units.write(Instance("mine", desk.workdir, Path("/usr/bin/agent-mailer"), ("/usr/bin",)))
    for words in ways:
        refused = at(desk, "agent", *words)
        assert (refused.status, "agent-mailer service uninstall mine" in refused.err) == (75, True), words
    units.remove("mine")
    envelope = Envelope("m", "th", "user", 1.0, "", "")
    runs = TurnRecord(
        "20261129T100000-0a0b0c0d", envelope, Phase.RUNNING, "command", 1.0, process=identify(os.getpid())
    )
    place = desk.place()
    with held(place):
        place.prepare()
        place.state.turns.create(runs)
    for words in ways:
        refused = at(desk, "agent", *words)
        assert (refused.status, f"agent-mailer turns stop {runs.turn_id}" in refused.err) == (75, True), words
    assert mailboxes(desk.root) == ("coder", "planner", "user")
    assert desk.state.exists()


@contextmanager
def held(place: Workplace) -> Iterator[None]:
    lock = place.lock()
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@LONG
def test_a_watcher_that_runs_and_a_turn_that_outlived_it_keep_all_as_it_is(desk: Desk) -> None:
    desk.shell("sleep 600")
    desk.send("x")
    with desk.watching() as watcher:
        until(lambda: holder_of(desk.state / ".lock") and desk.place().state.turns.ids(), "the watcher")
        until(lambda: process_of(desk), "the turn")
        for words in (("remove", "--yes"), ("move", "../poems"), ("rename", "poet")):
            refused = at(desk, "agent", *words)
            assert refused.status == 75
            assert f"kill {watcher.pid}" in refused.err
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
        for words in (("remove", "--yes"), ("move", "../poems"), ("rename", "poet")):
            refused = at(desk, "agent", *words)
            assert refused.status == 75
            assert "agent-mailer turns stop" in refused.err
        assert is_alive(process_of(desk)[0])
    assert mailboxes(desk.root) == ("coder", "planner", "user")
