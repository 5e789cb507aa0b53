"""AMQ's other two records: the receipt and the dead-letter envelope. Pure."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Final

import msgspec

from agent_mailer.mailbox.maildir.format import Malformed, clean, go_json, rfc3339
from agent_mailer.names import path_name

DLQ_SCHEMA: Final = "amq/dlq/v1"
MAX_DLQ_HEADER_BYTES: Final = 64 * 1024


class Stage(StrEnum):
    """How far a message got with its consumer."""

    DRAINED = "drained"
    DLQ = "dlq"


class DeadLetter(msgspec.Struct, frozen=True):
    """What a dead-letter envelope says of the file in it."""

    original_id: str
    original_file: str


def receipt_name(message_id: str, consumer: str, stage: Stage) -> str:
    """The file name that a waiting sender polls; an id that is no plain name is mapped first."""
    return f"{path_name(message_id)}__{consumer}__{stage}.json"


def receipt(message_id: str, thread: str, sender: str, consumer: str, stage: Stage, now: float, detail: str) -> bytes:
    fields = {
        "schema": 1,
        "msg_id": message_id,
        "thread": thread,
        "sender": sender,
        "consumer": consumer,
        "stage": stage.value,
        "emitted_at": rfc3339(now),
        "detail": detail,
    }
    kept = {k: v for k, v in fields.items() if v != "" or k not in ("thread", "detail")}
    return (clean(go_json(kept)) + "\n").encode()


def dead_letter(
    envelope_id: str, original_file: str, why: Malformed, source: str, now: float, original: bytes
) -> bytes:
    """The envelope of an unreadable file, with its bytes verbatim. `source` is the folder it lay in: new or cur."""
    fields = {
        "schema": DLQ_SCHEMA,
        "id": envelope_id,
        "original_id": why.id or original_file.removesuffix(".md"),
        "original_file": original_file,
        "failure_reason": why.reason.value,
        "failure_detail": why.why,
        "failure_time": rfc3339(float(int(now))),
        "retry_count": 0,
        "retry_state": "ready",
        "source_dir": source,
    }
    return b"---\n" + clean(go_json(fields)).encode() + b"\n---\n" + original


def parse_dead_letter(data: bytes) -> DeadLetter | None:
    """Read the beginning of an envelope; None for anything else."""
    if not data.startswith(b"---\n"):
        return None
    try:
        fields, _ = json.JSONDecoder().raw_decode(data[4:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    original_id, original_file = fields.get("original_id"), fields.get("original_file")
    return DeadLetter(
        original_id if isinstance(original_id, str) else "", original_file if isinstance(original_file, str) else ""
    )
