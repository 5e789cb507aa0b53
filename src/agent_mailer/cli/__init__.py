"""What can a person or a script ask for? Commands, one noun a module: parse, call, print; they decide nothing."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()

# What starts a command makes nothing but what stays, and most are over before there is garbage worth a look.
gc.set_threshold(100_000)


def stays() -> None:
    """For a command that runs on: from here on garbage is looked for as in any program."""
    gc.set_threshold(*_USUAL)
