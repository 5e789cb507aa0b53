"""A tool server of somebody's own: `python poked_server.py FILE`, whose one tool changes something, a line in FILE."""

import json
import sys
from pathlib import Path

SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}}}
POKE = {"name": "poke", "description": "pokes", "inputSchema": SCHEMA, "annotations": {"destructiveHint": True}}


def answer(method: str, params: dict[str, object]) -> object:
    if method == "initialize":
        version, info = params["protocolVersion"], {"name": "own", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/call":
        with Path(sys.argv[1]).open("a") as poked:
            poked.write(f"{params['arguments']['what']}\n")  # type: ignore[index]
        return {"content": [{"type": "text", "text": "poked"}]}
    return {"tools": [POKE]} if method == "tools/list" else {}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        told = {"jsonrpc": "2.0", "id": asked["id"], "result": answer(asked["method"], asked.get("params") or {})}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
