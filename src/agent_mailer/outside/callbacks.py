"""What is told back: where it may go, and what it says. Pure; who asks the names' addresses and posts is elsewhere.

What an agent answers to a hook's mail is a result. It goes to one URL, which a person gave the hook: never to one that
a caller names. So that no hook reaches into the network of whoever runs it, only addresses of the public internet are
taken, by https, unless an operator listed the host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from agent_mailer.names import printable

LONGEST_URL = 2_000
LONGEST_RESULT = 200_000
"""Characters of an answer that are told."""
SECONDS = 15.0
"""In which whoever is called back has answered."""
MOST_HOSTS = 20
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
_GIVEN_OUT = ipaddress.ip_network("2000::/3")
"""All of IPv6 that the public internet has (RFC 4291, IANA): the rest is somebody's own, or nobody's."""


class Target(msgspec.Struct, frozen=True):
    """Where a callback goes. `listed`: the operator named this host, so it may be a private one, and without TLS."""

    url: str
    scheme: str
    host: str
    port: int
    listed: bool


class BadTarget(ValueError):
    """It may not go there; the words say why."""


class Result(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a callback. `delivery`, `source`, `dedupe_key`: of what it is an answer to, empty where that is not
    known any more. `status`: news, open or resolved. `result_id`: the answer's own id, the same each time it is posted.
    `result` is the agent's text.
    """

    hook: str
    thread_id: str
    result_id: str
    sender: str
    subject: str
    result: str
    at: str
    delivery: str = ""
    source: str = ""
    dedupe_key: str = ""
    status: str = "news"
    occurrence_count: int = 0
    message_ids: tuple[str, ...] = ()
    type: str = "result"


def target_of(url: str, hosts: Sequence[str]) -> Target:
    """`hosts`: HOST or HOST:PORT, as an operator listed them. Raises BadTarget."""
    if not url or len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise BadTarget(f"a callback is a URL of at most {LONGEST_URL} characters")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
        # As whoever looks it up does: no name has an empty label, or one of more than 63 characters.
        host.encode("idna")
    except ValueError as error:
        raise BadTarget(f"{printable(url, 80)} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.fragment:
        raise BadTarget(f"{printable(url, 80)}: a callback is https://HOST[:PORT]/PATH, without a name in it")
    port = port or (443 if parts.scheme == "https" else 80)
    listed = any(one.lower() in (host, f"{host}:{port}", f"[{host}]:{port}") for one in hosts)
    if parts.scheme == "http" and not listed:
        raise BadTarget(f"{printable(host, 80)}: a callback goes by https, unless an operator listed the host")
    return Target(url, parts.scheme, host, port, listed)


def reachable(target: Target, addresses: Sequence[str]) -> str:
    """The address to connect to, of those that the host's name has. Raises BadTarget where it has none, or where any of
    them is not the public internet's and the host is not listed.
    """
    if not addresses:
        raise BadTarget(f"{printable(target.host, 80)} has no address")
    if not target.listed and (private := [one for one in addresses if not is_public(one)]):
        raise BadTarget(f"{printable(target.host, 80)} is {printable(private[0], 60)}, no public address")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether it is one of the public internet, however it is written."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is not None:
            return is_public(str(inner))
        if found in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found not in _GIVEN_OUT:
            return False
    return found.is_global and not found.is_multicast


def is_host(text: str) -> bool:
    """Whether an operator can list it."""
    return 0 < len(text) <= 255 and text.isascii() and text.isprintable() and not set(text) & set(" /@?#")
