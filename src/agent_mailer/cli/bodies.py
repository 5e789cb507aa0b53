"""The text of a message from the command line: given, in a file, or on standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from agent_mailer.errors import UsageFault
from agent_mailer.names import printable

MAX_BODY_BYTES = 10 * 1024 * 1024


def read_body(body: str | None, body_file: str | None, *, optional: bool = False) -> str:
    """Raises UsageFault where both or neither are given, the file cannot be read, or the text is empty."""
    if body is not None and body_file is not None:
        raise UsageFault("two_bodies", "give --body or --body-file, not both", "")
    if body is None and body_file is None and not optional:
        raise UsageFault("no_body", "the message has no text", "give --body TEXT, --body-file FILE, or --body-file -")
    text = _file(body_file) if body_file is not None else body or ""
    if not text.strip() and not optional:
        raise UsageFault("empty_body", "the message's text is empty", "give --body TEXT or --body-file FILE")
    return text


def _file(name: str) -> str:
    shown = "standard input" if name == "-" else printable(name)
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BODY_BYTES + 1)
        else:
            with Path(name).open("rb") as stream:
                data = stream.read(MAX_BODY_BYTES + 1)
    except OSError as error:
        raise UsageFault("bad_body_file", f"{shown} cannot be read: {error.strerror}", "") from None
    if len(data) > MAX_BODY_BYTES:
        raise UsageFault("too_large", f"{shown} has more than {MAX_BODY_BYTES} bytes", "send the file's name instead")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageFault("not_text", f"{shown} is not UTF-8 text", "send the file's name instead") from None
