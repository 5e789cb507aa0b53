"""The wire: a call of a tool or the reading of a resource as one HTTP request, and what each answer means."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from agent_mailer.errors import MailerError
from agent_mailer.mailbox.http import Answer, Peer
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable
from agent_mailer.names import printable

READ_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 75.0
"""A write may wait for the server's archive lock, which it gives up after a minute."""

NO_JSON: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

_BUSY = ("Archive lock busy", "temporarily locked", "temporarily busy", "A database error occurred")
_NOT_US = (
    "Invalid registration_token",
    "Invalid sender_token",
    "Invalid agent_token",
    "requires registration_token",
    "requires sender_token",
    "requires agent_token",
)
_MEND = "take another name (agent-mailer config set address NAME-2), or bring its token from where it was registered"
_FORGOTTEN = ("Use ensure_project to create",)

T = TypeVar("T")
Argument = str | int | bool | list[str] | list[int]


class ToolRefused(MailboxUnavailable):
    """The server understood the call and says no; `message` says why, in its words."""


class Forgotten(MailboxUnavailable):
    """The server knows nothing of our project: it is another one than it was."""


class _Content(msgspec.Struct):
    text: str = ""


class _Result(msgspec.Struct):
    content: list[_Content] = []
    contents: list[_Content] = []
    structuredContent: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the wire's name
    isError: bool = False  # noqa: N815 - the wire's name
    tools: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    message: str = ""


class _Reply(msgspec.Struct):
    result: _Result | None = None
    error: _Error | None = None


class _Schema(msgspec.Struct):
    properties: dict[str, msgspec.Raw] = {}


class _Tool(msgspec.Struct):
    name: str
    inputSchema: _Schema = msgspec.field(default_factory=_Schema)  # noqa: N815 - the wire's name


class _Wrapped(msgspec.Struct, forbid_unknown_fields=True):
    result: msgspec.Raw


class Server:
    """Raises ConfigFault for a URL or bearer that can be none."""

    def __init__(self, url: str, bearer: str = "") -> None:
        if url and urlsplit(url.strip()).path in ("", "/"):
            url = url.strip().rstrip("/") + "/api"
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        self.peer = Peer(url, headers)
        self._tools: dict[str, frozenset[str]] | None = None
        self._secret = bearer

    async def tools(self) -> Mapping[str, frozenset[str]]:
        """Each tool with the arguments that it takes: servers differ, and refuse what they do not know."""
        if self._tools is None:
            result = await self._rpc("tools/list", {}, READ_SECONDS)
            listed = self.decoded(bytes(result.tools), list[_Tool])
            self._tools = {tool.name: frozenset(tool.inputSchema.properties) for tool in listed}
        return self._tools

    def forget(self) -> None:
        """Ask again what it can do."""
        self._tools = None

    async def call(
        self, tool: str, arguments: Mapping[str, Argument], shape: type[T], *, seconds: float = READ_SECONDS
    ) -> T:
        """The tool's result. Of the `arguments` those are sent that this server's tool takes.

        Raises ToolRefused, Lost, MailboxRefused, MailboxUnavailable.
        """
        takes = (await self.tools()).get(tool)
        if takes is None:
            raise self.unavailable(f"has no tool {tool}: it hides it, or is another server")
        given = {name: value for name, value in arguments.items() if name in takes}
        result = await self._rpc("tools/call", {"name": tool, "arguments": given}, seconds)
        if result.isError:
            raise self._refusal(result.content[0].text if result.content else "no reason given", arguments)
        found = bytes(result.structuredContent)
        if not found or found == b"null":
            found = (result.content[0].text if result.content else "[]").encode()
        with suppress(*NO_JSON):
            found = bytes(msgspec.json.decode(found, type=_Wrapped).result)
        return self.decoded(found, shape)

    async def resource(self, uri: str, shape: type[T], secret: str = "") -> T:
        """Raises as `call`. `secret` in the URI is shown to nobody."""
        result = await self._rpc("resources/read", {"uri": uri}, READ_SECONDS, secret)
        return self.decoded((result.contents[0].text if result.contents else "").encode(), shape)

    async def _rpc(self, method: str, params: Mapping[str, object], seconds: float, secret: str = "") -> _Result:
        order = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = await self.peer.ask("POST", "/", content=msgspec.json.encode(order), seconds=seconds)
        if not answer.ok:
            raise self._http_refusal(answer)
        try:
            reply = msgspec.json.decode(answer.body, type=_Reply)
        except NO_JSON:
            raise self.unavailable(f"gives no answer of the protocol: {answer.glimpse()}") from None
        if reply.error is not None:
            raise self._refusal(reply.error.message, {"": secret} if secret else {})
        if reply.result is None:
            raise self.unavailable("gives an answer without a result")
        return reply.result

    def decoded(self, data: bytes, shape: type[T]) -> T:
        """Raises MailboxUnavailable for what is of another shape."""
        try:
            return msgspec.json.decode(data, type=shape)
        except NO_JSON as error:
            raise self.unavailable(f"answers in another shape than we know: {printable(str(error), 100)}") from None

    def unavailable(self, what: str) -> MailboxUnavailable:
        fix = "is it the right server? agent-mailer config set broker_url URL"
        return MailboxUnavailable("mailbox_answer", f"{self.peer.shown} {what}", fix)

    def _http_refusal(self, answer: Answer) -> MailboxUnavailable:
        said = f"{self.peer.shown} answers {answer.status}: {answer.glimpse()}"
        if answer.status in (401, 403):
            return MailboxRefused("key_refused", said, "agent-mailer config set api_key BEARER")
        if answer.status == 404:
            return MailboxUnavailable("mailbox_answer", said, "is the path right? it is /api/ or /mcp/")
        return MailboxUnavailable("mailbox_failed", said, "see the server's log")

    def _refusal(self, text: str, arguments: Mapping[str, Argument]) -> MailerError:
        """What a refusal means, by its words: the server's own error codes do not reach the wire."""
        for name, value in arguments.items():
            if isinstance(value, str) and value and (not name or name.endswith("token")):
                text = text.replace(value, "***")
        said = printable(" ".join(text.split()), 400)
        if any(words in text for words in _NOT_US):
            return MailboxRefused("identity_refused", f"{self.peer.shown}: {said}", _MEND)
        if any(words in text for words in _BUSY):
            return MailboxUnavailable("mailbox_busy", f"{self.peer.shown}: {said}", "wait")
        if any(words in text for words in _FORGOTTEN):
            return Forgotten("mailbox_forgot", f"{self.peer.shown}: {said}", "agent-mailer mail register")
        return ToolRefused("mailbox_refused", said)
