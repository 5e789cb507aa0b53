"""Run by itself: without_calls.py ERRNO CALL… -- WORD…: for these words the kernel refuses those calls.

As a file system refuses them that cannot do it, NFS say: by a filter of calls, in x86_64 and aarch64.
"""

import ctypes
import errno
import os
import struct
import sys

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
CALLS = {"flock": (73, 32), "openat2": (437, 437), "renameat2": (316, 276)}


def main(words: list[str]) -> None:
    end = words.index("--")
    audit, column = MACHINES[os.uname().machine]
    lines = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), (0x06, 0, 0, 0x7FFF0000), (0x20, 0, 0, 0)]
    for code, call in zip(words[:end:2], words[1:end:2], strict=True):
        lines += [(0x15, 0, 1, CALLS[call][column]), (0x06, 0, 0, 0x00050000 | getattr(errno, code))]
    lines.append((0x06, 0, 0, 0x7FFF0000))
    code_bytes = b"".join(struct.pack("=HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code_bytes)
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(22, ctypes.c_ulong(2), program, zero, zero):
        sys.exit(f"no filter of calls: {os.strerror(ctypes.get_errno())}")
    os.execvp(words[end + 1], words[end + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
