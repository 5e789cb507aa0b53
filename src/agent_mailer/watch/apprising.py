"""Telling a person by Apprise URLs (ntfy, Telegram, e-mail, Slack, ...): `python -m agent_mailer.watch.apprising`.

The library blocks and takes long to load, so it runs in a process of its own, which gets the URLs on its standard
input and says a line for each of them. URLs hold passwords and tokens: no argument, variable, log or error has one.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import msgspec

from agent_mailer.installed import command_for
from agent_mailer.names import running_on

MOST_BYTES = 60_000
"""What a pipe takes at once."""

_SHORTEST = 3
"""Shorter pieces of a URL are no secrets, and words of ours have them."""

_PIECES = re.compile(r"[^A-Za-z0-9_.~%+-]+")


class Told(msgspec.Struct, frozen=True):
    """What came of one URL, by its place in the configuration; an empty `why`: it took the notice."""

    url: int
    why: str = ""


class _Errand(msgspec.Struct, frozen=True):
    urls: dict[int, str]
    title: str
    body: str


def is_installed() -> bool:
    return find_spec("apprise") is not None


async def tell_urls(
    urls: Sequence[str],
    but: Collection[int],
    title: str,
    body: str,
    *,
    isolated: str,
    env: Mapping[str, str],
    seconds: float,
    mark: str,
) -> list[Told]:
    """Tell all but those at the places `but`, side by side, within `seconds`; one answer a URL. Raises OSError.

    `isolated`: how our Python is started; `mark` as for `run_briefly_async`.
    """
    from agent_mailer.process.commands import run_briefly_async

    left = {place: url for place, url in enumerate(urls) if place not in but}
    if not is_installed():
        return [Told(place, f"apprise is not installed: {command_for('apprise')}") for place in left]
    errand = msgspec.json.encode(_Errand(left, title, body))
    if len(errand) > MOST_BYTES:
        return [Told(place, f"notify.apprise is longer than {MOST_BYTES} bytes") for place in left]
    done = await run_briefly_async(
        (sys.executable, isolated, "-m", "agent_mailer.watch.apprising"),
        env=env,
        # Nothing of an agent's lies there.
        cwd=Path("/"),
        seconds=seconds,
        mark=mark,
        stdin=errand,
    )
    heard = {one.url: one for line in done.output.splitlines() if (one := _read(line)) is not None}
    silent = f"it was not done after {seconds:g} s" if done.status is None else f"apprise ended with {done.status}"
    return [heard.get(place) or Told(place, silent) for place in left]


def _read(line: str) -> Told | None:
    try:
        return msgspec.json.decode(line, type=Told)
    except msgspec.DecodeError:
        # Some other word of the library's, which may hold a URL.
        return None


def harmless(text: str, url: str) -> str:
    """`text` in one line, without any piece of `url` but its scheme."""
    scheme, _, rest = url.partition("://")
    pieces = {piece for known in (rest, unquote(rest)) for piece in (*_PIECES.split(known), known)}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= _SHORTEST and piece.lower() != scheme.lower():
            text = re.sub(re.escape(piece), "…", text, flags=re.IGNORECASE)
    return running_on(text, 200)


# In the process of its own.


def _tell(place: int, url: str, errand: _Errand) -> Told:
    import apprise

    scheme = url.partition("://")[0] if "://" in url else ""
    named = f"URL {place + 1}" + (f" ({running_on(scheme, 20)})" if scheme.isalnum() else "")
    try:
        service = apprise.Apprise.instantiate(url)
        if not isinstance(service, apprise.NotifyBase):
            return Told(place, f"{named}: apprise knows no such service, or the URL lacks something")
        one = apprise.Apprise(service)
        came = one.notify(body=errand.body, title=errand.title, body_format=apprise.NotifyFormat.TEXT)
        if came:
            return Told(place)
        words = [entry.message for entry in came.logs() if entry.level in ("WARNING", "ERROR")]
    except Exception as error:
        return Told(place, f"{named}: {harmless(f'{type(error).__name__}: {error}', url)}")
    return Told(place, f"{named}: {harmless(words[-1], url) if words else 'it was not taken'}")


def main() -> int:
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=_Errand)
    logging.getLogger("apprise").propagate = False
    one_at_a_time = threading.Lock()

    def tell(place: int, url: str) -> None:
        said = msgspec.json.encode(_tell(place, url, errand)).decode()
        with one_at_a_time:
            sys.stdout.write(f"{said}\n")
            sys.stdout.flush()

    threads = [threading.Thread(target=tell, args=one) for one in errand.urls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
