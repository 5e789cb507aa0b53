"""An agent of the Agent Client Protocol that follows a script: `python acp_agent.py SCRIPT.json`.

The script maps each method that the client may call to steps, each with one key:

    {"update": {...}}    a session/update                {"answer": {...}}   the answer to the call
    {"refuse": {...}}    an error as the answer          {"raw": TEXT}       a line as it is
    {"ask": [M, {...}]}  a call of its own; its answer is waited for
    {"mail": [WORDS]}    `agent-mailer mail WORDS`       {"touch": FILE}     make FILE
    {"await": FILE}      until FILE is there             {"leave": STATUS}   end at once
    {"daemon": FILE}     leave a process of its own session, its environment cleared; its pid into FILE
    {"hang": true}       nothing more, not even at the end of its input

A method without steps is refused with -32601. What the client says is appended to SCRIPT.json.heard.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SESSION = "ses_1"


def say(fields: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **fields}), flush=True)


class Agent:
    def __init__(self, path: Path) -> None:
        self.script = json.loads(path.read_text())
        self.heard = path.with_name(f"{path.name}.heard")

    def listen(self) -> dict[str, Any] | None:
        line = sys.stdin.readline()
        if not line:
            return None
        with self.heard.open("a") as file:
            file.write(line)
        message: dict[str, Any] = json.loads(line)
        return message

    def run(self) -> None:
        while (message := self.listen()) is not None:
            method = message.get("method")
            if method is None or "id" not in message:
                continue
            steps = self.script.get(method)
            if steps is None:
                say({"id": message["id"], "error": {"code": -32601, "message": f"no {method}"}})
            for step in steps or ():
                self.perform(step, message)

    def perform(self, step: dict[str, Any], call: dict[str, Any]) -> None:
        ((kind, value),) = step.items()
        match kind:
            case "update":
                params = {"sessionId": SESSION, "update": value}
                say({"method": "session/update", "params": params})
            case "answer":
                say({"id": call["id"], "result": value})
            case "refuse":
                say({"id": call["id"], "error": value})
            case "raw":
                print(value, flush=True)
            case "ask":
                say({"id": "mine", "method": value[0], "params": value[1]})
                while (message := self.listen()) is not None and message.get("id") != "mine":
                    if message.get("method") == "session/cancel":
                        say({"id": call["id"], "result": {"stopReason": "cancelled"}})
            case "mail":
                words = [sys.executable, "-P", "-m", "agent_mailer.cli.app", "mail", *value]
                subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
            case "touch":
                Path(value).touch()
            case "await":
                while not Path(value).exists():
                    time.sleep(0.01)
            case "daemon":
                script = f"echo $$ >{value}.new && mv {value}.new {value} && exec sleep 600"
                subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, env={"PATH": os.defpath})
                while not Path(value).exists():
                    time.sleep(0.01)
            case "hang":
                signal.pause()
            case "leave":
                sys.stdout.flush()
                os._exit(value)


if __name__ == "__main__":
    Agent(Path(sys.argv[1])).run()
