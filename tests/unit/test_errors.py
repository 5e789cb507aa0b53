"""A command that mends something, said for a folder, and as it can be typed."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_mailer.errors import mend, put_aside, quoted, said_of, words_of

SOURCE = Path(__file__).resolve().parents[2] / "src" / "agent_mailer"
TAKES_A_PATH = re.compile(
    r"(?:^|[ ;:(])(?:mkdir|mv|chmod|chown|rm|cp|ls|cat|df|cd|fuser|findmnt|\$EDITOR|git -C|-C"
    r"|--workdir|--dir|--data|--maildir-root|--root)(?: -[a-zA-Z]+| [ugoa]+[-+][rwxX]+| [0-7]{4}| @)* $"
)
QUOTING = {"quoted", "quote", "prompt_word", "typed", "at", "put_aside"}
NO_PATH = {"os.geteuid()", "us", "wanted"}


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


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", "a\nb\x1b[31m", "'\\\n", "caf\u00e9 \u00a0x", "\udcff\udcfe x"]
)
def test_what_is_quoted_is_one_word_for_a_shell_and_hides_nothing(name: str) -> None:
    typed = quoted(Path("/a", name))
    said = subprocess.run(["bash", "-c", f"printf %s {typed}"], capture_output=True, check=True).stdout
    assert said == os.fsencode(f"/a/{name}")
    assert typed.isprintable()
    assert put_aside(Path("/a", name)) == f"mv {typed} {typed}.old"


def test_each_path_in_a_command_that_mends_is_quoted() -> None:
    """In a folder `My agents` a command that was copied would be about another folder, or remove one."""
    found = [f"{path.relative_to(SOURCE)}:{at}: {said}" for path in SOURCE.rglob("*.py") for at, said in _bare(path)]
    assert not found, "\n".join(found)


def _bare(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text("utf-8"))
    named = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _quotes(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                said = ast.unparse(part.value)
                if TAKES_A_PATH.search(before) and said not in NO_PATH | named and not _quotes(part.value):
                    yield node.lineno, ast.unparse(node)
                before += "@"


def _quotes(node: ast.AST) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in QUOTING


def test_what_is_no_text_or_nested_without_end_is_said_in_plain_words() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"a = 1\nb = \xe9\n".decode()
    assert words_of(caught.value) == "line 2: the byte 0xe9 is no UTF-8 text"
    with pytest.raises(RecursionError) as deep:
        tomllib.loads("a = " + "[" * 9000)
    assert words_of(deep.value) == "it is nested too deeply"
