"""The real programs let through what docs/permission-modes.json says, in every mode."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.probes import MODES, RUN, look, read_seen
from tests.e2e.throwaway import is_nobody
from tests.sizes import LONG

pytestmark = LONG


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cli", RUN)
def test_a_mode_lets_through_what_the_page_says(cli: str, mode: str, tmp_path: Path, home: Path) -> None:
    if not is_nobody():
        pytest.skip("we are root and cannot be anybody else: unshare --user does not work here")
    [told] = [one for one in read_seen() if (one.cli, one.mode) == (cli, mode)]
    found = look(cli, mode, tmp_path, home)
    assert (found.version, found.reached) == (told.version, told.reached), "python -m tests.e2e.probes"
