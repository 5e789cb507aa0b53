"""An agent program that asks a person before each act: `python -m tests.asking_agent PLAN.json`, JSON lines.

The plan is `{"acts": [COMMAND, ...], "done": FILE}`: each act is a line in FILE once it is done. It asks about the next
one that is not, and acts when told yes and `agent-mailer approvals use` says now. Told no it ends with last words.
Without `acts` each message has one, of its own: its id. What it was told lies beside FILE, as `prompt`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    prompt = sys.stdin.read()
    plan = json.loads(Path(sys.argv[1]).read_text())
    Path(plan["done"]).with_name("prompt").write_text(prompt)
    done = Path(plan["done"])
    wanted = plan.get("acts") or [os.environ["AGENT_MAILER_MESSAGE_ID"]]
    say(type="session", id=os.environ.get("AGENT_MAILER_SESSION_ID") or "s-1")
    file = os.environ.get("AGENT_MAILER_APPROVALS")
    told = json.loads(Path(file).read_text()).get("told", []) if file else []
    if told:
        last = told[-1]
        if last["word"] != "allow":
            return say(type="result", text=f"{last['word']}: {last.get('reason', '')}")
        used = subprocess.run([*plan["use"], last["id"]], capture_output=True, text=True, check=False)
        if used.returncode:
            return say(type="result", text=f"not to be done: {used.stderr}")
        act = json.loads(last.get("changed") or last["input"])["command"]
        with done.open("a") as lines:
            lines.write(f"{act}\n")
    acts = [line for line in done.read_text().splitlines() if "acts" in plan or line in wanted] if done.exists() else []
    if len(acts) < len(wanted):
        call = {"command": wanted[len(acts)], "description": f"act {len(acts)}"}
        return say(type="result", outcome="asked", tool="Bash", input=call, why="it is \x1b[31mneeded")
    return say(type="result", text=f"all {len(acts)} done" if "acts" in plan else "done")


if __name__ == "__main__":
    main()
