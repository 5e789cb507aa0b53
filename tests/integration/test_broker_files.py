"""Pictures at the broker."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.databases import ON_A_FILE
from tests.desk import until

from agent_mailer.broker.data import Quota

pytestmark = pytest.mark.usefixtures("each_database")

PICTURES = {
    "image/png": b"\x89PNG\r\n\x1a\n" + b"p" * 20,
    "image/jpeg": b"\xff\xd8\xff" + b"j" * 20,
    "image/gif": b"GIF89a" + b"g" * 20,
    "image/webp": b"RIFF\0\0\0\0WEBP" + b"w" * 20,
}
MOST = 5000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker"), max_file_bytes=MOST) as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


def upload(desk: BrokerDesk, headers: dict[str, str], name: str, data: bytes, expected: int = 200) -> Any:
    return desk.call("POST", "/files/upload", expected, files={"file": (name, data)}, headers=headers)


@pytest.mark.parametrize("mime_type", PICTURES)
def test_a_picture_comes_back_as_it_was(desk: BrokerDesk, alice: Person, mime_type: str) -> None:
    data = PICTURES[mime_type]
    for headers in (alice.header, alice.login):
        stored = upload(desk, headers, "my picture.bin", data)
        assert stored == {
            "id": stored["id"],
            "filename": "my picture.bin",
            "mime_type": mime_type,
            "size": len(data),
            "url": f"{desk.url}/files/{stored['id']}",
        }
        answer = desk.http.get(stored["url"])
        assert answer.status_code == 200, "a link needs no login"
        assert answer.content == data
        assert answer.headers["content-type"] == mime_type
        assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''my%20picture.bin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox"


def test_what_was_answered_survives_a_power_cut(
    desk: BrokerDesk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is synced and whose name is not nothing may be left."""
    synced: list[str] = []

    def noting(fd: int, fsync: Callable[[int], None] = os.fsync) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    for day in desk.settings.uploads.iterdir():
        shutil.rmtree(day)
    monkeypatch.setattr(os, "fsync", noting)
    name = upload(desk, alice.header, "x", PICTURES["image/gif"])["id"]
    uploads = desk.settings.uploads.resolve()
    [path] = uploads.glob(f"*/{name}.gif")
    # The day's folder is new, too; what the database syncs is its own matter.
    assert synced == [str(path), str(path.parent), str(uploads)]


def test_behind_a_proxy(desk: BrokerDesk, alice: Person) -> None:
    headers = {**alice.header, "X-Forwarded-Proto": "https", "Host": "mail.example"}
    stored = upload(desk, headers, "x", PICTURES["image/gif"])
    assert stored["url"] == f"https://mail.example/files/{stored['id']}"


def test_what_is_no_picture(desk: BrokerDesk, alice: Person) -> None:
    for data in (b"", b"<svg onload=alert(1)>", b"RIFF\0\0\0\0WAVE", b"%PDF"):
        said = upload(desk, alice.header, "x.png", data, 400)
        assert said["detail"] == "Unsupported file type. Allowed: PNG, JPG, GIF, WebP"


def _bomb() -> bytes:
    """A picture of some kilobytes that would come to 3.6 GB where somebody looked at it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return PICTURES["image/png"][:8] + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000, 9))


def test_a_bomb_is_none_for_the_broker(desk: BrokerDesk, alice: Person) -> None:
    """It unpacks nothing, whatever that is called and whoever says that it is packed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"\0" * 1_000_000)
    upload(desk, alice.header, "bomb.png", packed.getvalue(), 400)
    bomb = _bomb()
    stored = upload(desk, alice.header, "bomb.png", bomb)
    assert stored["size"] == len(bomb) < MOST
    assert desk.http.get(stored["url"]).content == bomb
    kind = {**alice.header, "Content-Type": "application/json", "Content-Encoding": "gzip"}
    desk.call("POST", "/messages/send", 422, content=gzip.compress(b" " * 10_000_000 + b"{}"), headers=kind)


def test_what_is_too_large(desk: BrokerDesk, alice: Person) -> None:
    png = PICTURES["image/png"]
    assert upload(desk, alice.header, "x", png.ljust(MOST, b"x"))["size"] == MOST
    said = upload(desk, alice.header, "x", png.ljust(MOST + 1, b"x"), 400)
    assert said["detail"] == f"File too large: {MOST + 1} bytes. Maximum: {MOST} bytes"
    upload(desk, alice.header, "x", png.ljust(MOST * 1000, b"x"), 413)


def test_names_are_for_people_only(desk: BrokerDesk, alice: Person) -> None:
    for name, shown in {
        "../../etc/passwd": "passwd",
        "c:\\x\\y.png": "y.png",
        "ü\u202e.png": "ü.png",
        "x" * 300: "x" * 255,
    }.items():
        stored = upload(desk, alice.header, name, PICTURES["image/png"])
        assert stored["filename"] == shown
        assert desk.http.get(f"/files/{stored['id']}").status_code == 200
    stored = sorted(path for path in desk.settings.uploads.rglob("*") if path.is_file())
    assert stored
    assert {path.stat().st_mode & 0o777 for path in stored} == {0o600}


def test_who_may_upload(desk: BrokerDesk) -> None:
    assert upload(desk, {}, "x", PICTURES["image/png"], 401)["detail"] == "Not authenticated"
    assert upload(desk, {"X-API-Key": "amk_0"}, "x", PICTURES["image/png"], 401)["detail"] == "Invalid API key"


def test_an_upload_without_a_file(desk: BrokerDesk, alice: Person) -> None:
    desk.call("POST", "/files/upload", 422, headers=alice.header)
    desk.call("POST", "/files/upload", 422, headers=alice.header, data={"file": "text"})


def test_unknown_and_lost_files(desk: BrokerDesk, alice: Person) -> None:
    assert desk.call("GET", "/files/none", 404) == {"detail": "File not found"}
    stored = upload(desk, alice.header, "x", PICTURES["image/png"])
    (path,) = desk.settings.uploads.rglob(f"{stored['id']}.png")
    path.unlink()
    assert desk.call("GET", f"/files/{stored['id']}", 404) == {"detail": "File not found on disk"}


@ON_A_FILE
def test_a_picture_that_cannot_be_noted_is_not_kept(desk: BrokerDesk, alice: Person) -> None:
    before = sorted(desk.settings.uploads.rglob("*.gif"))
    with sqlite3.connect(desk.database) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON files BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    said = desk.http.post("/files/upload", files={"file": ("x", PICTURES["image/gif"])}, headers=alice.header)
    with database:
        database.execute("DROP TRIGGER full")
    database.close()
    assert said.status_code >= 400
    assert said.json()["detail"]
    assert sorted(desk.settings.uploads.rglob("*.gif")) == before


@ON_A_FILE
def test_pictures_of_the_same_moment_count_together(desk: BrokerDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody else writes to the database they gather, and are noted in one transaction then."""
    carol = desk.person("carol")
    picture = PICTURES["image/gif"].ljust(100, b"x")
    quota = Quota(file_bytes=250)
    monkeypatch.setattr(desk.app.state, "settings", msgspec.structs.replace(desk.settings, quota=quota))

    uploads = str(desk.settings.uploads.resolve())
    durable: list[str] = []

    def noting(fd: int, fsync: Callable[[int], None] = os.fsync) -> None:
        fsync(fd)
        durable.append(os.readlink(f"/proc/self/fd/{fd}"))

    def stored() -> int:
        return sum(path.is_file() for path in desk.settings.uploads.rglob("*"))

    def store() -> int:
        return desk.http.post("/files/upload", files={"file": ("x", picture)}, headers=carol.header).status_code

    before = stored()
    monkeypatch.setattr(os, "fsync", noting)
    with closing(sqlite3.connect(desk.database, isolation_level=None)) as other, ThreadPoolExecutor(6) as pool:
        other.execute("BEGIN IMMEDIATE")
        # The first is about to be noted when the others come.
        done = [pool.submit(store)]
        until(lambda: durable.count(uploads) == 1, "its name, the last of it that is synced")
        done += [pool.submit(store) for _ in range(5)]
        until(lambda: durable.count(uploads) == 6, "those of the others")
        other.execute("ROLLBACK")
    assert sorted(one.result() for one in done) == [200, 200, 413, 413, 413, 413]
    assert stored() == before + 2
