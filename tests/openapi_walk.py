"""Every call that a broker's OpenAPI names, and bodies made from its schemas: so that no path is forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

METHODS = ("get", "post", "put", "patch", "delete")


class Operation(NamedTuple):
    """One method of one path. `body` is the JSON schema of its JSON body, references resolved; `public`: no login."""

    method: str
    path: str
    path_params: tuple[str, ...]
    query: Mapping[str, Any]
    required_query: frozenset[str]
    body: Mapping[str, Any] | None
    body_required: bool
    uploads: bool
    public: bool

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def fill(self, values: Mapping[str, str]) -> str:
        """The path with its parameters; a value is quoted whole."""
        return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: quote(values[found[1]], safe=""), self.path)


def operations(spec: Mapping[str, Any]) -> Iterator[Operation]:
    for path, item in spec["paths"].items():
        for method in METHODS:
            if method in item:
                yield _operation(spec, method, path, item[method])


def _operation(spec: Mapping[str, Any], method: str, path: str, raw: Mapping[str, Any]) -> Operation:
    parameters = [resolved(spec, one) for one in raw.get("parameters", ())]
    query = {one["name"]: resolved(spec, one["schema"]) for one in parameters if one["in"] == "query"}
    content = raw.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return Operation(
        method.upper(),
        path,
        tuple(re.findall(r"\{(\w+)(?::\w+)?\}", path)),
        query,
        frozenset(one["name"] for one in parameters if one["in"] == "query" and one.get("required")),
        None if schema is None else resolved(spec, schema),
        bool(raw.get("requestBody", {}).get("required")),
        "multipart/form-data" in content,
        not raw.get("security"),
    )


def resolved(spec: Mapping[str, Any], schema: Any) -> Any:
    """The schema without references. Ours do not refer to themselves."""
    if isinstance(schema, list):
        return [resolved(spec, one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        found: Any = spec
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return resolved(spec, found)
    return {name: resolved(spec, value) for name, value in schema.items()}


def sample(schema: Mapping[str, Any], named: Mapping[str, Any] | None = None, name: str = "") -> Any:
    """A value that the schema allows; a property called as in `named` gets that value."""
    if named and name in named:
        return named[name]
    if "default" in schema and not (named and schema.get("properties")):
        return schema["default"]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return sample(schema[choice][0], named, name)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    return _typed(schema, named, name)


def _typed(schema: Mapping[str, Any], named: Mapping[str, Any] | None, name: str) -> Any:
    match schema.get("type"):
        case "object":
            return {key: sample(value, named, key) for key, value in schema.get("properties", {}).items()}
        case "array":
            count = schema.get("minItems", 0)
            return [sample(schema.get("items", {}), named, name)] * count
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "x" * max(1, schema.get("minLength", 1))
