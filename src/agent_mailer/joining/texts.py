"""What `init` writes into an agent's documents. Pure: text in, text out.

Of a file that is there already only what stands between our two marks is ours; everything else stays byte for byte.
"""

from __future__ import annotations

import re

import msgspec

BEGIN = "<!-- agent-mailer: begin -->"
END = "<!-- agent-mailer: end -->"

MAIL = """\
## Mail

Mail for this agent arrives by `agent-mailer watch`: for each message it starts one turn that nobody attends, and names
the message in the prompt. In such a turn read and answer with the tools of the MCP server `agent_mailer` (read_message,
read_thread, list_contacts, reply, forward, send, read_memory, write_memory, finish) or with the command
`agent-mailer mail` (read, thread, contacts, reply, forward, send, finish). They need neither key nor network; what they
send leaves when the turn ends well. Without an answer of yours your final words are the answer.

In a session with a person the same command is there, with `--as` and the agent's address: `agent-mailer mail inbox`.
Mail is not fetched or sent with curl, and nothing is polled: the watcher keeps account of what is done.
"""

_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"(?P<marks>#{1,6})(?:\s+(?P<title>.*?))?\s*")
_PROTOCOL = re.compile(r"邮箱协议|\bmail(er)?\b.*\bprotocol\b|^auto-watch\b")
"""What the headings say of the sections that tell an agent to fetch and send mail by itself."""


class Adapter(msgspec.Struct, frozen=True):
    """The file that an agent program reads by itself, and the identity file that it leads to."""

    file: str
    identity: str = "AGENT.md"
    imports: bool = False
    """A line `@FILE` takes that file in."""


ADAPTERS: dict[str, Adapter] = {
    "claude": Adapter("CLAUDE.md", imports=True),
    "codex": Adapter("AGENTS.md"),
    "cursor": Adapter(".cursorrules"),
    "openclaw": Adapter("CLAW.md"),
    "dreamfactory": Adapter("DREAMER.md", "SOUL.md"),
    "infiniti": Adapter("INFINITI.md", "SOUL.md"),
}


class Self(msgspec.Struct, frozen=True):
    """Who the agent is at its broker. The strings are the broker's: untrusted."""

    name: str
    address: str
    agent_id: str
    broker_url: str
    role: str = ""
    system_prompt: str = ""


def identity_text(me: Self) -> str:
    """The bullets that name the agent."""
    lines = (
        ("Name", me.name),
        ("Role", me.role),
        ("Address", me.address),
        ("Agent ID", me.agent_id),
        ("Broker URL", me.broker_url),
    )
    bullets = "".join(f"- **{label}**: {one_line(value)}\n" for label, value in lines if value)
    return f"# Agent Identity\n\n{bullets}"


def new_identity_file(me: Self, from_broker: str) -> str:
    """An identity file where there was none: the broker's text with our section on mail, or one of our own."""
    if from_broker.strip():
        made = from_broker if from_broker.endswith("\n") else from_broker + "\n"
        replaced = without_protocol(made)
        return replaced if replaced != made else with_block(made, MAIL)
    prompt = f"\n## System Prompt\n\n{me.system_prompt.strip()}\n" if me.system_prompt.strip() else ""
    return f"{identity_text(me)}{prompt}\n{BEGIN}\n{MAIL}{END}\n"


def adapter_block(adapter: Adapter) -> str:
    reference = f"\n@{adapter.identity}\n" if adapter.imports else ""
    text = f"You are the agent that {adapter.identity} in this folder describes: read it before anything else.\n"
    return text + reference


def leads_to(text: str, identity: str) -> bool:
    """Somebody else has seen to it already, that the identity file is read."""
    return re.search(rf"(?m)^\s*@(?:import\s+)?(?:\./)?{re.escape(identity)}\s*$", text) is not None


def with_block(text: str, inner: str) -> str:
    """`text` with our block holding `inner`: the one that is there, else a new one at the end."""
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    block = f"{BEGIN}\n{inner.rstrip()}\n{END}".replace("\n", end_of_line)
    place = _block_in(text)
    if place is not None:
        return text[: place[0]] + block + text[place[1] :]
    if not text:
        return block + end_of_line
    gap = "" if text.endswith(("\n", "\r")) else end_of_line
    return f"{text}{gap}{end_of_line}{block}{end_of_line}"


def block_of(text: str) -> str | None:
    """What stands between our marks; None where they are not."""
    place = _block_in(text)
    return None if place is None else text[place[0] + len(BEGIN) : place[1] - len(END)]


def protocol_titles(text: str) -> list[str]:
    """The headings of the sections that `without_protocol` would take out."""
    return [text[start:].splitlines()[0].lstrip("#").strip() for start, _ in _protocol_sections(text)]


def without_protocol(text: str) -> str:
    """The sections on fetching and sending mail by oneself replaced by ours; the same text where there are none."""
    sections = _protocol_sections(text)
    if not sections:
        return text
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    ours = "" if _block_in(text) else f"{BEGIN}\n{MAIL}{END}\n".replace("\n", end_of_line)
    parts: list[str] = []
    position = 0
    for number, (start, end) in enumerate(sections):
        parts.append(text[position:start])
        if number == 0 and ours:
            parts.append(ours + (end_of_line if end < len(text) else ""))
        position = end
    return "".join(parts) + text[position:]


def one_line(text: str) -> str:
    """A label's value, whatever the broker says it is."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _block_in(text: str) -> tuple[int, int] | None:
    start = text.find(BEGIN)
    end = text.find(END, start + len(BEGIN)) if start >= 0 else -1
    return (start, end + len(END)) if end >= 0 else None


def _protocol_sections(text: str) -> list[tuple[int, int]]:
    """Where they begin and end, each with what is below it; none of ours, none in a fence."""
    found: list[tuple[int, int]] = []
    ours = _block_in(text) or (len(text), len(text))
    fence = ""
    open_at, level, position, headings = -1, 0, 0, 0
    for line in text.splitlines(keepends=True):
        start, position = position, position + len(line)
        mark = _FENCE.match(line)
        if mark is not None and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
            continue
        heading = None if fence else _HEADING.fullmatch(line.rstrip("\r\n"))
        if heading is None and start != ours[0]:
            continue
        depth = len(heading["marks"]) if heading is not None else 1
        headings += heading is not None
        if open_at >= 0 and (depth <= level or start == ours[0]):
            found.append((open_at, start))
            open_at = -1
        title = (heading["title"] or "").casefold() if heading is not None else ""
        # The head of the whole document begins no section, whatever it says.
        of_mail = _PROTOCOL.search(title) is not None and not (depth == 1 and headings == 1)
        if open_at < 0 and of_mail and not ours[0] <= start < ours[1]:
            open_at, level = start, depth
    if open_at >= 0:
        found.append((open_at, len(text)))
    return found
