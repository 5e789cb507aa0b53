"""`agent-mailer console` for tests and pictures: the real command over real workdirs, and a browser without script."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.desk import CLI


class OwnConsole:
    """What the command has printed, and a visitor; `link` opens the pages once."""

    def __init__(self, printed: str) -> None:
        links: list[str] = re.findall(r"http://\S+", printed)
        self.named, self.link = links
        self.url = self.link.partition("/console/")[0]
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def enter(self) -> httpx.Response:
        return self.http.get(self.link)

    def get(self, path: str, **query: str) -> httpx.Response:
        return self.http.get(path, params=query or None)

    def post(self, path: str, *, site: str = "same-origin", **fields: str | list[str]) -> httpx.Response:
        return self.http.post(path, data=fields, headers={"Sec-Fetch-Site": site})


@contextmanager
def own_console(*workdirs: Path) -> Iterator[OwnConsole]:
    """Over these workdirs; none = all that are known."""
    named = [word for workdir in workdirs for word in ("-C", str(workdir))]
    process = subprocess.Popen(
        [*CLI, "console", *named], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if "Ctrl-C stops it" in line:
            break
    try:
        console = OwnConsole(printed)
        yield console
        console.http.close()
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(30) == 0
