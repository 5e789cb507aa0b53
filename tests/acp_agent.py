"""An agent of the Agent Client Protocol that follows a script: `python acp_agent.py SCRIPT.json`.

The script maps each method that the client may call to steps, each with one key:

    {"update": {...}}    a session/update                {"answer": {...}}   the answer to the call
    {"refuse": {...}}    an error as the answer          {"raw": TEXT}       a line as it is
    {"ask": [M, {...}]}  a call of its own; its answer is waited for
    {"mail": [WORDS]}    `agent-mailer mail WORDS`       {"touch": FILE}     make FILE
    {"await": FILE}      until FILE is there             {"leave": STATUS}   end at once
    {"daemon": FILE}     leave a process of its own session, its environment cleared; its pid into FILE
    {"model": true}      as an agent does: its model is asked at $MODEL_URL, and what it calls is run
    {"hang": true}       nothing more, not even at the end of its input

`METHOD 2` has the steps of its second call, where they are others. A method without steps is refused with -32601. What
the client says is appended to SCRIPT.json.heard.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

SESSION = "ses_1"
MAIL = (sys.executable, "-P", "-m", "agent_mailer.cli.app", "mail")


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
        calls: Counter[str] = Counter()
        while (message := self.listen()) is not None:
            method = message.get("method")
            if method is None or "id" not in message:
                continue
            calls[method] += 1
            steps = self.script.get(f"{method} {calls[method]}", self.script.get(method))
            if steps is None:
                say({"id": message["id"], "error": {"code": -32601, "message": f"no {method}"}})
            for step in steps or ():
                self.perform(step, message)

    def work(self, call: dict[str, Any]) -> None:
        """One prompt of an agent with a shell and the mail tools."""
        told = [*self.remembered(), {"role": "user", "content": call["params"]["prompt"][0]["text"]}]
        names = ("bash", "agent_mailer_reply")
        tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in names]
        while True:
            body = json.dumps({"model": "m", "messages": told, "tools": tools}).encode()
            ask = urllib.request.Request(os.environ["MODEL_URL"] + "/v1/chat/completions", body)
            try:
                with urllib.request.urlopen(ask) as response:
                    message = json.load(response)["choices"][0]["message"]
            except urllib.error.HTTPError as error:
                said = json.load(error)["error"]["message"]
                data = {"statusCode": error.code, "message": said}
                say({"id": call["id"], "error": {"code": -32603, "message": "Internal error", "data": data}})
                return
            except (OSError, http.client.HTTPException) as error:
                say({"id": call["id"], "error": {"code": -32603, "message": f"fetch failed: {error}"}})
                return
            told.append(message)
            if not message.get("tool_calls"):
                break
            self.use(**message["tool_calls"][0]["function"])
        if not Path("session").exists():
            Path("session").write_text(json.dumps(told))
        text = {"type": "text", "text": message["content"]}
        update = {"sessionUpdate": "agent_message_chunk", "content": text}
        say({"method": "session/update", "params": {"sessionId": SESSION, "update": update}})
        usage = {"inputTokens": 100, "outputTokens": 20}
        say({"id": call["id"], "result": {"stopReason": "end_turn", "usage": usage}})

    def remembered(self) -> list[dict[str, Any]]:
        """Of the session that was loaded."""
        loaded = "session/load" in self.heard.read_text().splitlines()[-2]
        found: list[dict[str, Any]] = json.loads(Path("session").read_text()) if loaded else []
        return found

    def use(self, name: str, arguments: str) -> None:
        kind = "execute" if name == "bash" else "other"
        given = json.loads(arguments)
        update = {"sessionUpdate": "tool_call", "toolCallId": "t1", "title": name, "kind": kind}
        say({"method": "session/update", "params": {"sessionId": SESSION, "update": update}})
        options = [{"optionId": name, "kind": name} for name in ("allow_always", "allow_once", "reject_once")]
        params = {"toolCall": {"toolCallId": "t1", "rawInput": given}, "options": options}
        say({"id": "mine", "method": "session/request_permission", "params": params})
        answer = self.listen()
        assert answer is not None
        if answer["result"]["outcome"]["optionId"] == "allow_once":
            words = ["/bin/sh", "-c", given["command"]] if name == "bash" else [*MAIL, "reply", "--body", given["body"]]
            subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
        done = {"sessionUpdate": "tool_call_update", "toolCallId": "t1", "status": "completed"}
        say({"method": "session/update", "params": {"sessionId": SESSION, "update": done}})

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
                subprocess.run([*MAIL, *value], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
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
            case "model":
                self.work(call)
            case "hang":
                signal.pause()
            case "leave":
                sys.stdout.flush()
                os._exit(value)


if __name__ == "__main__":
    Agent(Path(sys.argv[1])).run()
