"""`python -m benchmarks [NAME...]`: measure and print; nothing here is a test."""

from __future__ import annotations

import os
import sys

from benchmarks.figures import FIGURES


def main() -> None:
    unknown = [name for name in sys.argv[1:] if name not in FIGURES]
    if unknown:
        sys.exit(f"there is no figure {', '.join(unknown)}; there are: {', '.join(FIGURES)}")
    # An installed program is compiled once. Where this is set, each start of ours would be measured with that.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{load}; on a shared machine ratios hold, seconds may not")
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
