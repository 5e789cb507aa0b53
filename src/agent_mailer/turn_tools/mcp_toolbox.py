"""What every set of MCP tools is made of: a tool from a class, and an answer from a call, whatever goes wrong in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from agent_mailer.errors import MailerError

C = TypeVar("C", bound=msgspec.Struct)


class Tool(msgspec.Struct, frozen=True, rename="camel"):
    """A tool as `tools/list` shows it."""

    name: str
    title: str
    description: str
    input_schema: dict[str, object]
    annotations: Mapping[str, bool]


class Answer(msgspec.Struct, frozen=True):
    """What the agent is told. `failed`: it did not work, and the text says what to do."""

    text: str
    failed: bool = False


class Tools(Protocol):
    """What a server offers. `instructions` is what the agent is told of them as a whole."""

    instructions: str

    @property
    def tools(self) -> Sequence[Tool]: ...

    def has(self, name: str) -> bool: ...

    def call(self, name: str, arguments: Mapping[str, object]) -> Answer:
        """Run a tool that there is. Raises nothing."""


def tool_of(name: str, title: str, call: type[msgspec.Struct], annotations: Mapping[str, bool]) -> Tool:
    """The tool whose arguments are the fields of `call`, and whose description is its docstring."""
    _, parts = msgspec.json.schema_components([call])
    schema = parts[call.__name__]
    for field in schema["properties"].values():
        # Enums in place: not every client follows a reference.
        named = field.pop("$ref", "").rpartition("/")[2]
        if named:
            field.update(type="string", enum=parts[named]["enum"])
    kept = {key: schema[key] for key in ("type", "properties", "required", "additionalProperties")}
    return Tool(name, title, " ".join((call.__doc__ or "").split()), kept, annotations)


def answer_of(name: str, call: type[C], arguments: Mapping[str, object], run: Callable[[C], str]) -> Answer:
    """What `run` says of the call with these arguments, or why there is nothing. Raises nothing."""
    # Some models name every argument and give null for what they leave out.
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return Answer(_sendable(run(msgspec.convert(given, call))))
    except msgspec.ValidationError as error:
        return _failed(f"the arguments of {name} do not fit: {error}", f"it takes {_signature(call)}")
    except MailerError as fault:
        return _failed(fault.message, fault.fix)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return _failed(f"{named}{error.strerror or error}", "try again; if that fails too, say so at the end")
    except Exception as error:
        return _failed(f"a fault of agent-mailer itself: {type(error).__name__}: {error}", "go on without this tool")


def _failed(what: str, fix: str) -> Answer:
    return Answer(_sendable(f"error: {what}" + (f" ({fix})" if fix else "")), failed=True)


def _signature(call: type[msgspec.Struct]) -> str:
    fields = msgspec.structs.fields(call)
    return ", ".join(f"{field.name} (required)" if field.required else field.name for field in fields)


def _sendable(text: str) -> str:
    # A path of odd bytes in an error's text would not be UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")
