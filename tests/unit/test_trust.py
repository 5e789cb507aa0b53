"""What counts of a workdir's files: the pure verdict, and what the user's state folder keeps."""

from __future__ import annotations

import fcntl
import grp
import itertools
import os
import pwd
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from tests.crash.points import Point, PointedSystem
from tests.refusing import Died, On, Refusing

from agent_mailer.assemble import Workplace
from agent_mailer.config import leaves
from agent_mailer.config_tables import Takes
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError
from agent_mailer.identity import IDENTITY_FILES
from agent_mailer.trust.keeping import BEFORE, Keeper
from agent_mailer.trust.ownership import unsafe
from agent_mailer.trust.standing import Standing, in_place, standing_in
from agent_mailer.trust.verdict import Basis, Known, Life, judge

PLAN = Standing({"permission_mode": "plan"})
ALL = Standing({"permission_mode": "bypassPermissions", "notify.command": ["x"]}, {"fresh.md": b"do"})


def test_every_key_says_when_it_is_taken_and_those_of_power_are_marked() -> None:
    marked = {leaf.name for leaf in leaves() if leaf.widens is not None}
    assert all(isinstance(leaf.takes, Takes) for leaf in leaves())
    wanted = {"permission_mode", "command", "runtime", "extra_args", "env.pass", "env.set", "notify.command"}
    assert wanted | {"notify.address", "claude_command", "config_home", "max_budget_usd"} <= marked
    assert not {"model", "api_key", "turn_timeout", "max_parallel_turns"} & marked


def test_what_stands_in_the_files_is_told_by_what_it_means() -> None:
    raw = {"permission_mode": "plan", "max_budget_usd": 5, "claude_command": "claude", "notify": {"address": ""}}
    assert standing_in(raw, {}, {}).values == {"permission_mode": "plan", "max_budget_usd": 5.0}
    assert standing_in({"max_budget_usd": 5.0}, {}, {}) == standing_in({"max_budget_usd": 5}, {}, {})
    assert standing_in({"address": ""}, {"address": "coder"}, {}).values == {"address": "coder"}
    # What is no value of the key is something else than any value all the same.
    assert standing_in({"notify": "x", "permission_mode": 7}, {}, {}).values == {"permission_mode": "7"}


def test_the_hash_is_of_values_and_texts_alone() -> None:
    assert PLAN.digest == Standing({"permission_mode": "plan"}, {}).digest
    assert len({PLAN.digest, ALL.digest, Standing(ALL.values, {"fresh.md": b"do "}).digest, Standing().digest}) == 4
    assert len({Standing(PLAN.values, bodies={"daily.md": text}).digest for text in ("a", "b")}) == 2


def test_a_value_is_put_in_place_and_taken_away() -> None:
    raw = {"notify": {"command": ["evil"], "timeout": 3}, "command": ["evil"]}
    assert in_place(raw, "notify.command", None) == {"notify": {"timeout": 3}, "command": ["evil"]}
    assert in_place(raw, "command", ["good"])["command"] == ["good"]
    assert in_place({}, "notify.command", ["good"]) == {"notify": {"command": ["good"]}}
    assert in_place({"notify": 3}, "notify.command", None) == {"notify": 3}


@pytest.mark.parametrize(
    ("known", "life", "given", "basis", "counts"),
    [
        (Known(), Life(), "", Basis.FIRST, ALL),
        (Known(), Life(begun=True), "", Basis.NOBODY, Standing()),
        (Known(), Life(begun=True, older=True), "", Basis.UPGRADE, ALL),
        (Known(record=PLAN), Life(), "", Basis.RECORD, PLAN),
        (Known(record=PLAN), Life(begun=True, older=True), "", Basis.RECORD, PLAN),
        (Known(record=PLAN), Life(begun=True), ALL.digest, Basis.GIVEN, ALL),
        (Known(record=PLAN), Life(begun=True), PLAN.digest, Basis.RECORD, PLAN),
        (Known(), Life(), PLAN.digest, Basis.NOBODY, Standing()),
        (Known(), Life(begun=True, older=True), "nonsense", Basis.NOBODY, Standing()),
        (Known(), Life(begun=True), ALL.digest[:-1], Basis.NOBODY, Standing()),
        (Known(moved=ALL), Life(begun=True), "", Basis.MOVED, ALL),
        (Known(moved=PLAN), Life(begun=True), "", Basis.NOBODY, Standing()),
        (Known(fault="damaged"), Life(), "", Basis.NOBODY, Standing()),
        (Known(fault="damaged"), Life(), ALL.digest, Basis.GIVEN, ALL),
    ],
)
def test_the_verdict(known: Known, life: Life, given: str, basis: Basis, counts: Standing) -> None:
    verdict = judge(ALL, known, life, given)
    assert (verdict.basis, verdict.counts) == (basis, counts)
    assert bool(verdict.changed) == (counts != ALL)
    assert ("permission_mode" in verdict.stopping) == (basis is Basis.NOBODY)


def test_with_a_record_a_key_that_was_not_set_is_not_set() -> None:
    verdict = judge(ALL, Known(record=Standing()), Life(begun=True), "")
    assert verdict.changed == ("permission_mode", "notify.command", "templates/fresh.md")
    assert verdict.stopping == ()


@pytest.fixture
def keeper(home: Path) -> Keeper:
    return Keeper(home / ".local" / "state" / "agent-mailer" / "trust", Disk(), "machine1")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    path = tmp_path / "coder"
    path.mkdir()
    return path


def test_a_record_is_read_back_and_only_for_its_workdir(keeper: Keeper, workdir: Path, tmp_path: Path) -> None:
    assert keeper.known(workdir) == Known()
    keeper.write(workdir, ALL, "test", 1.0)
    assert keeper.known(workdir) == Known(record=ALL)
    assert keeper.path(workdir).stat().st_mode & 0o777 == 0o600
    assert keeper.folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "other").mkdir()
    assert keeper.known(tmp_path / "other") == Known()
    link = tmp_path / "link"
    link.symlink_to(workdir)
    assert keeper.known(link) == Known(record=ALL)
    # Copied by hand to where another's would be it is about the first one still.
    other = keeper.path(tmp_path / "other")
    other.write_bytes(keeper.path(workdir).read_bytes())
    other.chmod(0o600)
    found = keeper.known(tmp_path / "other")
    assert (found.record, f"is about {workdir}" in found.fault) == (None, True)


def test_a_record_is_durable_and_only_then_the_one_under_its_older_path_goes(home: Path, workdir: Path) -> None:
    trace = home / "trace"
    keeper = Keeper(home / "trust", Disk(), "machine1")
    keeper.write(workdir, ALL, "test", 1.0)
    other = home / "still-there"
    other.mkdir()
    moved = workdir.rename(workdir.with_name("moved"))
    before = keeper.path(workdir)
    # As of a folder that is mounted under two names.
    beside = keeper.path(other)
    beside.write_bytes(before.read_bytes().replace(str(workdir).encode(), str(other).encode()))
    beside.chmod(0o600)
    refusing = Keeper(keeper.folder, Disk(Refusing("trust/*.json")), "machine1")
    with pytest.raises(OSError, match="No space"):
        refusing.write(moved, ALL, "moved", 2.0)
    assert before.exists()
    Keeper(keeper.folder, Disk(PointedSystem(Point(), trace)), "machine1").write(moved, ALL, "moved", 2.0)
    assert (before.exists(), beside.exists(), keeper.known(moved).record) == (False, True, ALL)
    done = [line for line in trace.read_text().splitlines() if line.split()[0] in ("fsync", "replace", "unlink")]
    assert [line.split()[0] for line in done] == ["fsync", "replace", "fsync", "unlink"]
    assert done[2].endswith("/trust")


def test_one_of_another_machine_does_not_count_and_says_so(keeper: Keeper, workdir: Path) -> None:
    other = Keeper(keeper.folder, Disk(), "machine2")
    other.write(workdir, ALL, "test", 1.0)
    found = keeper.known(workdir)
    assert found.record is None
    assert "another machine" in found.fault
    # Copied in its place by hand it does not count either.
    keeper.path(workdir).write_bytes(other.path(workdir).read_bytes())
    keeper.path(workdir).chmod(0o600)
    assert "another machine" in keeper.known(workdir).fault
    keeper.write(workdir, PLAN, "test", 1.0)
    assert keeper.known(workdir).record == PLAN
    assert other.known(workdir).record == ALL


def test_a_moved_workdir_is_known_by_its_folder(keeper: Keeper, workdir: Path, tmp_path: Path) -> None:
    keeper.write(workdir, ALL, "test", 1.0)
    moved = tmp_path / "moved"
    workdir.rename(moved)
    assert keeper.known(moved) == Known(moved=ALL)
    keeper.write(moved, ALL, "moved", 1.0)
    assert not keeper.path(workdir).exists()
    workdir.mkdir()
    assert keeper.known(workdir) == Known()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff", b"[" * 5000, b'{"workdir": 3}', "forged", "newer", "link", "fifo"]
)
def test_a_damaged_record_counts_for_nothing(keeper: Keeper, workdir: Path, damage: object) -> None:
    keeper.write(workdir, ALL, "test", 1.0)
    path = keeper.path(workdir)
    if damage == "forged":
        path.write_bytes(path.read_bytes().replace(b"bypassPermissions", b"acceptEdits"))
    elif damage == "newer":
        path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 2'))
    elif damage == "link":
        path.rename(path.with_name("x"))
        path.symlink_to("x")
    elif damage == "fifo":
        path.unlink()
        os.mkfifo(path, 0o600)
    else:
        assert isinstance(damage, bytes)
        path.write_bytes(damage)
    found = keeper.known(workdir)
    assert found.record is None
    assert str(path) in found.fault
    assert found.fix == "agent-mailer config trust"
    path.unlink()
    keeper.write(workdir, PLAN, "test", 1.0)
    assert keeper.known(workdir).record == PLAN


def test_what_others_can_write_counts_for_nothing(keeper: Keeper, workdir: Path, tmp_path: Path) -> None:
    keeper.write(workdir, ALL, "test", 1.0)
    keeper.folder.chmod(0o777)
    found = keeper.known(workdir)
    assert (found.record, found.fix) == (None, f"chmod o-w {keeper.folder}")
    with pytest.raises(PermissionError):
        keeper.write(workdir, ALL, "test", 1.0)
    keeper.folder.chmod(0o700)
    keeper.path(workdir).chmod(0o666)
    assert "others may have written it" in keeper.known(workdir).fault


def test_the_folder_may_be_writable_by_a_group_of_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    os.chown(tmp_path, -1, os.getegid())
    assert unsafe(tmp_path / "not" / "there") is None
    if os.geteuid() == 0:
        os.chown(tmp_path, -1, 12)
        found = unsafe(tmp_path)
        assert found is not None
        assert found.fix == f"chmod g-w {tmp_path}"
        os.chown(tmp_path, 1234, os.getegid())
        tmp_path.chmod(0o700)
        found = unsafe(tmp_path / "state")
        assert found is not None
        assert "another user (uid 1234)" in found.why
        os.chown(tmp_path, 0, 0)


@pytest.mark.parametrize(
    ("group", "members", "own", "why"),
    [
        ("ann", (), True, ""),
        ("ann", ("ann", "root"), True, ""),
        ("ann", ("ann", "eve"), True, "can be written by the group ann"),
        ("users", (), True, "can be written by the group users"),
        ("users", ("ann",), True, "can be written by the group users"),
        ("ann", (), False, "can be written by the group ann"),
    ],
)
def test_a_group_is_of_one_where_it_is_the_users_first_has_his_name_and_lists_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, members: tuple[str, ...], why: str, *, own: bool
) -> None:
    """Those whose first group it is stand in no list of it."""
    gid = os.getegid() or 100  # root's own group is always one
    os.chown(tmp_path, -1, gid)
    tmp_path.chmod(0o775)
    user = pwd.struct_passwd(("ann", "x", os.geteuid(), gid if own else gid + 1, "", "/home/ann", "/bin/sh"))
    entry = grp.struct_group((group, "x", gid, [*members]))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", lambda _: entry)
    found = unsafe(tmp_path)
    assert (found.why if found else "").removeprefix(f"{tmp_path} ") == why


def test_a_link_on_the_way_is_followed_and_its_folder_looked_at(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "state").symlink_to("open")
    found = unsafe(tmp_path / "state" / "trust")
    assert found is not None
    assert str(tmp_path / "open") in found.why


def test_what_was_there_before_is_noted_once(keeper: Keeper, workdir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert keeper.was_there(workdir)
    keeper.begin(workdir, [workdir])
    assert keeper.was_there(workdir)
    assert not keeper.was_there(other)
    keeper.begin(workdir, [other])
    assert not keeper.was_there(other)
    (keeper.folder / BEFORE).write_bytes(b"")
    assert not keeper.was_there(workdir)
    (keeper.folder / BEFORE).unlink()
    (keeper.folder / BEFORE).mkdir()
    assert not keeper.was_there(workdir), "what cannot be read widens nothing"


def test_a_first_start_has_it_all_durable_in_this_order(tmp_path: Path, home: Path) -> None:
    state = tmp_path / "coder" / ".agent-mailer"
    state.mkdir(parents=True)
    (state / "config.toml").write_text('permission_mode = "plan"\n')
    place = Workplace(state.parent)
    place.disk.system = PointedSystem(Point(), tmp_path / "trace")
    place.trust.remember()
    made = [line for line in (tmp_path / "trace").read_text().splitlines() if line.split()[0] in ("fsync", "replace")]
    at = made.index(f"replace trust/{BEFORE}") - 1
    record = made[at + 4].partition(" ")[2]
    assert [line.partition(" ")[0] for line in made[at:]] == ["fsync", "replace", "fsync"] * 3
    assert [made[at + number] for number in (2, 5, 7, 8)] == [
        *["fsync agent-mailer/trust"] * 2,
        *("replace .agent-mailer/trusted", "fsync coder/.agent-mailer"),
    ]
    assert record.startswith("trust/")


def test_what_is_trusted_is_changed_by_one_at_a_time(tmp_path: Path, home: Path) -> None:
    (tmp_path / "coder" / ".agent-mailer").mkdir(parents=True)
    trust = Workplace(tmp_path / "coder").trust
    trust.give(PLAN, "test")
    other = os.open(trust.keeper.folder, os.O_RDONLY)
    try:
        with trust.changing(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)


def test_which_workdirs_are_older_is_noted_before_anything_is_remembered(tmp_path: Path, home: Path) -> None:
    """Else whoever is stopped in between leaves a folder by which all are older for ever."""
    (tmp_path / "coder" / ".agent-mailer").mkdir(parents=True)
    place = Workplace(tmp_path / "coder")
    place.disk.system = Refusing(f"trust/{BEFORE}")
    with pytest.raises(MailerError, match="cannot be remembered"):
        place.trust.give(PLAN, "test")
    assert place.trust.keeper.known(place.workdir) == Known()


def test_a_record_holds_what_msgspec_writes(keeper: Keeper, workdir: Path) -> None:
    odd = Standing({"env.set": {"A": "ü\n"}, "command": ["a", "b"]}, {"lost.md": b"\xff\x00"})
    keeper.write(workdir, odd, "test", 1.0)
    assert keeper.known(workdir).record == odd
    assert msgspec.json.decode(keeper.path(workdir).read_bytes())["digest"] == odd.digest


@pytest.mark.parametrize("older", [False, True], ids=["first start", "upgrade"])
def test_a_start_that_is_killed_around_the_record_is_done_again(tmp_path: Path, home: Path, older: bool) -> None:
    wanted = Standing({"permission_mode": "plan", "command": ["good"]})
    for calls in itertools.count():
        shutil.rmtree(home / ".local" / "state", ignore_errors=True)
        workdir = tmp_path / str(calls)
        turns = workdir / ".agent-mailer" / "turns"
        (turns / "20261121T160254-02f7ec1c" if older else turns).mkdir(parents=True)
        config = workdir / ".agent-mailer" / "config.toml"
        config.write_text('permission_mode = "plan"\ncommand = ["good"]\n')
        place = Workplace(workdir)
        assert place.trust.verdict.counts == wanted
        place.disk.system = dying = Refusing("*", *On, code=None, after=calls)
        with suppress(Died):
            place.trust.remember()
        after = Workplace(workdir).trust
        assert after.verdict.counts == wanted, f"killed before call {calls}"
        after.remember()
        assert Workplace(workdir).trust.verdict.basis is Basis.RECORD
        config.write_text('permission_mode = "bypassPermissions"\ncommand = ["evil"]\n')
        assert Workplace(workdir).trust.verdict.counts == wanted
        if not dying.refused:
            break
    assert calls > 8


def test_a_state_folder_in_the_workdir_counts_for_nothing_by_whatever_way_that_is_reached(workdir: Path) -> None:
    keeper = Keeper(workdir / ".local" / "state" / "trust", Disk(), "machine1")
    link = workdir.with_name("link")
    link.symlink_to(workdir)
    for way in (workdir, link):
        assert "lies in the workdir" in keeper.known(way).fault
        with pytest.raises(PermissionError):
            keeper.write(way, ALL, "test", 1.0)
    assert list(workdir.iterdir()) == []
    assert "no home folder" in Keeper(Path("~/state"), Disk(), "machine1").known(workdir).fault


def test_a_first_start_trusts_nothing_of_another_user_s(keeper: Keeper, workdir: Path) -> None:
    assert judge(ALL, Known(), Life(owner=1234), "").basis is Basis.NOBODY
    assert judge(ALL, Known(record=PLAN, replaced=True), Life(), "").basis is Basis.FIRST
    assert judge(ALL, Known(record=PLAN, replaced=True), Life(begun=True), "").counts == PLAN
    keeper.write(workdir, ALL, "test", 1.0)
    workdir.rename(workdir.with_name("kept"))
    workdir.mkdir()
    assert keeper.known(workdir) == Known(record=ALL, replaced=True)


@pytest.mark.parametrize("how", ["first start", "a person's command", "the environment"])
def test_what_an_agent_writes_is_no_upgrade_though_the_users_state_is_lost_whoever_trusted_what_was_there(
    workdir: Path, home: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The workdir itself says that it was begun by a version which remembers trust."""
    state = workdir / ".agent-mailer"
    state.mkdir()
    (state / "config.toml").write_text('permission_mode = "plan"\n')
    if how == "a person's command":
        trust = Workplace(workdir).trust
        trust.give(trust.verdict.there, "init")
    elif how == "the environment":
        monkeypatch.setenv("AGENT_MAILER_TRUST", Workplace(workdir).trust.verdict.there.digest)
    Workplace(workdir).trust.remember()
    (state / "turns" / "20261121T160254-02f7ec1c").mkdir(parents=True)
    shutil.rmtree(home / ".local" / "state")
    (state / "config.toml").write_text('permission_mode = "bypassPermissions"\n')
    verdict = Workplace(workdir).trust.verdict
    assert (verdict.basis, verdict.counts) == (Basis.NOBODY, Standing())


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("file", IDENTITY_FILES)
def test_what_an_agent_says_of_itself_fills_no_key_that_nobody_trusts(
    workdir: Path, home: Path, file: str, remembered: bool
) -> None:
    """It would have its mail, with its key, go where it likes."""
    (workdir / ".agent-mailer" / "turns" / "20261121T160254-02f7ec1c").mkdir(parents=True)
    (workdir / file).write_text("Address: coder\n")
    Workplace(workdir).trust.remember()
    if not remembered:
        shutil.rmtree(home / ".local" / "state")
    (workdir / file).write_text("Name: evil\nAddress: planner\nBroker: http://elsewhere\nAgent ID: 7\n")
    trust = Workplace(workdir).trust
    config = trust.load().config
    assert trust.verdict.changed == ("agent_name", "address", "broker_url")
    trusted = "coder" if remembered else ""
    assert (config.agent_name, config.address, config.broker_url, config.agent_id) == ("", trusted, "", "7")
