"""The real programs let through what docs/permission-modes.json says, in every mode and sandbox."""

from __future__ import annotations

import os

import pytest
from tests.e2e.probes import CASES, look, read_seen
from tests.e2e.throwaway import is_nobody
from tests.sizes import LONG

pytestmark = LONG


@pytest.mark.parametrize(("sandbox", "cli", "mode"), CASES)
def test_a_mode_lets_through_what_the_page_says(sandbox: str, cli: str, mode: str) -> None:
    if not is_nobody() or not os.access("/var/lib", os.W_OK):
        pytest.skip("it takes a user without privileges, and a place that is not below /tmp")
    [told] = [one for one in read_seen() if (one.sandbox, one.cli, one.mode) == (sandbox, cli, mode)]
    found = look(sandbox, cli, mode)
    assert (found.version, found.reached) == (told.version, told.reached), "python -m tests.e2e.probes"
