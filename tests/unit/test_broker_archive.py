"""A backup as a file: there as a whole or not at all, read as a whole or refused. What is stored is durable."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_mailer.broker import data
from agent_mailer.broker.data import Data, held
from agent_mailer.broker.engines import engine_of
from agent_mailer.broker.migrate import HEAD
from agent_mailer.broker.upkeep import archive
from agent_mailer.broker.upkeep.archive import Row
from agent_mailer.broker.upkeep.restore import restore
from agent_mailer.errors import BusyFault, ConfigFault

PLANTED = b'["","../../planted","AAAA"]\n'
ROWS = [Row("t", [n]) for n in range(3)]


def written(path: Path) -> Path:
    with archive.writing(path, archive.Head(schema=HEAD, made_at="now", tables={"t": ["c"]})) as writer:
        for row in ROWS:
            writer.row(row.table, row.values)
        writer.end()
    return path


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda raw: gzip.compress(b"".join(change(gzip.decompress(raw).splitlines(keepends=True))))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lines(lambda those: those[:-1]), id="no tail"),
        pytest.param(lines(lambda those: those[:1] + those[2:]), id="a row less"),
        pytest.param(lines(lambda those: [*those[:2], *those[1:]]), id="a row twice"),
        pytest.param(lines(lambda those: [*those, those[-1]]), id="more after the tail"),
        pytest.param(lines(lambda those: [*those[:-1], PLANTED, b'{"rows":3,"files":1}\n']), id="a file elsewhere"),
        pytest.param(lambda raw: raw[:-8] + bytes(4) + raw[-4:], id="another sum"),
        pytest.param(lambda raw: raw[:-8], id="no sum"),
        pytest.param(lambda raw: raw[: len(raw) // 2], id="half of it"),
    ],
)
def test_what_is_no_whole_backup_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = written(tmp_path / "backup")
    with archive.reading(path) as reader:
        assert list(reader.parts()) == ROWS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigFault, match="no whole backup"), archive.reading(path) as reader:
        list(reader.parts())


def test_a_backup_has_its_name_when_it_is_durable_and_its_name_is_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backup"
    synced: list[tuple[str, bool]] = []

    def noting(fd: int, fsync: Callable[[int], None] = os.fsync) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), path.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    written(path)
    assert synced == [(str(tmp_path / f".backup.{os.getpid()}"), False), (str(tmp_path), True)]


def test_a_database_file_has_one_holder_and_none_is_put_back_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "LOCK_SECONDS", 0.01)
    file = tmp_path / "broker.db"
    place = Data(tmp_path, f"sqlite:///{file}", file, tmp_path / "uploads", "")
    with held(place, "http://here"):
        with pytest.raises(BusyFault, match="http://here"), held(place, "http://there"):
            pass
        with pytest.raises(BusyFault, match="http://here"):
            restore(place, written(tmp_path / "backup"))
        assert not file.exists()


@pytest.mark.parametrize("writes", [True, False])
def test_what_a_file_has_committed_survives_a_power_cut_and_names_what_there_is(tmp_path: Path, writes: bool) -> None:
    engine = engine_of(f"sqlite:///{tmp_path / 'broker.db'}", writes=writes, size=1, stores=True)
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("synchronous", "journal_mode", "foreign_keys")
        }
    engine.dispose()
    assert found == {"synchronous": 2, "journal_mode": "wal", "foreign_keys": 1}
