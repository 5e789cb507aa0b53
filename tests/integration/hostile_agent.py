"""An agent that tries doors: hostile_agent.py DOORS TOLD. DOORS: {name: [what, where]}; TOLD gets {name: reason}."""

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def make(path: str) -> None:
    with open(path, "x") as stream:
        stream.write("made")


def unix(path: str) -> None:
    path = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(path)


def inet(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 5).close()


def read(path: str) -> None:
    with open(path, "rb") as stream:
        if not stream.read(1):
            raise OSError("it is empty")


def names(path: str) -> None:
    if not os.listdir(path):
        raise OSError("it is empty")


def append(path: str) -> None:
    with open(path, "a"):
        pass


def run(line: str) -> None:
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr or "failed")


def key(name: str) -> None:
    """A key that the kernel keeps for the session, by its name."""
    number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    if ctypes.CDLL(None, use_errno=True).syscall(number, 10, -3, b"user", name.encode(), 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def uring(_: object) -> None:
    """By it files and sockets are opened past every filter of calls."""
    if ctypes.CDLL(None, use_errno=True).syscall(425, 1, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


DOORS: dict[str, Callable[[Any], object]] = {
    "make": make,
    "read": read,
    "names": names,
    "append": append,
    "rename": lambda pair: os.rename(*pair),
    "unix": unix,
    "inet": inet,
    "signal": lambda pid: os.kill(pid, 0),
    "run": run,
    "key": key,
    "uring": uring,
    "empty": lambda path: os.truncate(path, 0),
}


def tried(what: str, where: Any) -> str:
    if isinstance(where, str):
        where = os.path.expandvars(where)
    elif isinstance(where, list):
        where = [os.path.expandvars(one) for one in where]
    try:
        DOORS[what](where)
    except OSError as fault:
        return str(fault)
    return ""


if __name__ == "__main__":
    sys.stdin.read()
    with open(sys.argv[1]) as doors:
        answers = {name: tried(what, where) for name, (what, where) in json.load(doors).items()}
    with open(sys.argv[2], "w") as told:
        json.dump(answers, told)
    print("tried")
