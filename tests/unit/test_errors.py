"""A command that mends something, said for a folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent_mailer.errors import mend, said_of, words_of


@pytest.mark.parametrize(
    ("fix", "wanted"),
    [
        ("agent-mailer config edit", "agent-mailer config edit -C /a"),
        ("agent-mailer config set runtime command", "agent-mailer config set runtime command -C /a"),
        ("agent-mailer init, or give the flags", "agent-mailer init -C /a, or give the flags"),
        ("agent-mailer init --command 'A B' --agent x", "agent-mailer init --command 'A B' --agent x -C /a"),
        ("agent-mailer watch, then wait", "agent-mailer watch -C /a, then wait"),
        ("claude auth login, then agent-mailer resume", "claude auth login, then agent-mailer resume -C /a"),
        ("install x, or: agent-mailer config set a ...", "install x, or: agent-mailer config set a ... -C /a"),
        ("agent-mailer doctor -C /b", "agent-mailer doctor -C /b"),
        ("agent-mailer status --all", "agent-mailer status --all"),
        ("agent-mailer cost --by day --all", "agent-mailer cost --by day --all"),
        ("agent-mailer approvals list --all", "agent-mailer approvals list --all -C /a"),
        ("agent-mailer mail inbox --all", "agent-mailer mail inbox --all -C /a"),
        ("agent-mailer --help", "agent-mailer --help"),
        ("agent-mailer broker serve", "agent-mailer broker serve"),
        ("chmod 700 /a/.agent-mailer", "chmod 700 /a/.agent-mailer"),
        ("", ""),
    ],
)  # fmt: skip
def test_only_a_command_about_one_folder_gets_its_name(fix: str, wanted: str) -> None:
    assert said_of(fix, "/a") == wanted
    assert said_of(fix, "") == fix


def test_a_folder_with_a_blank_is_quoted() -> None:
    assert said_of("agent-mailer resume", "/my agents/a") == "agent-mailer resume -C '/my agents/a'"


def refused(code: int, path: Path | None = None) -> OSError:
    return OSError(code, os.strerror(code), *([] if path is None else [str(path)]))


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (errno.ENOSPC, "df -h {}"),
        (errno.EDQUOT, "df -h {}"),
        (errno.EROFS, "findmnt -T {}"),
        (errno.EIO, "look at the disk: dmesg | tail"),
        (errno.EMFILE, "raise the limit on open files (ulimit -n, LimitNOFILE=)"),
        (errno.ENOENT, "ls -ld {}"),
        (errno.ENOTDIR, "ls -ld {}"),
        (errno.EACCES, "ls -ld {}"),
    ],
)
def test_what_the_system_refuses_is_mended_at_the_nearest_that_is_there(tmp_path: Path, code: int, wanted: str) -> None:
    there = tmp_path / "a b"
    there.mkdir()
    for path in (there, there / "gone", there / "gone/deeper"):
        assert mend(refused(code, path), "/elsewhere") == wanted.format(f"'{there}'")
        assert mend(refused(code), path) == wanted.format(f"'{there}'")
    assert mend(refused(errno.ENOENT, Path("bare")), there) == f"ls -ld '{there}'"


def test_what_is_shut_to_its_owner_is_opened(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "folder/file"
    folder.mkdir()
    file.touch(0o600)
    denied = refused(errno.EACCES, file)
    folder.chmod(0o500)
    assert mend(denied, "/") == f"chmod u+rwX {folder}", "a file goes and comes by its folder"
    folder.chmod(0o700)
    file.chmod(0o200)
    assert mend(denied, "/") == f"chmod u+rwX {file}"
    file.chmod(0o600)
    assert mend(denied, "/") == f"ls -ld {file}", "it is not shut"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_only_what_lies_in_an_own_folder_is_to_be_taken_over(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "folder/file"
    folder.mkdir()
    file.touch()
    os.chown(file, 65534, 65534)
    denied = refused(errno.EACCES, file)
    assert mend(denied, "/") == f"sudo chown -R $(id -un) {file}"
    os.chown(folder, 65534, 65534)
    assert mend(denied, "/") == f"ls -ld {file}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (PermissionError(13, "Permission denied", b"/a/b"), "/a/b: Permission denied"),
        (PermissionError(13, "Permission denied", "/known"), "Permission denied"),
        (PermissionError(13, "Permission denied", 3), "Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left", "/a/.tmp.pause.json.0123456789ab"), "/a/pause.json: No space left"),
        (OSError("it is odd"), "it is odd"),
        (ValueError("no JSON"), "no JSON"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_the_system_refuses_is_told_without_its_number(error: Exception, said: str) -> None:
    assert words_of(error, Path("/known")) == said
