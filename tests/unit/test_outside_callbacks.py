"""Where a callback may go: pure."""

from __future__ import annotations

import pytest

from agent_mailer.outside.callbacks import BadTarget, is_public, reachable, target_of

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "::127.0.0.1", "fec0::1", "no address", ""),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_the_public_internet_is_refused_however_it_is_written(address: str) -> None:
    assert not is_public(address)
    target = target_of("https://hooks.example.org/x", [])
    # One of several is enough: which of them would be called is chance.
    with pytest.raises(BadTarget):
        reachable(target, ["93.184.215.14", address])
    listed = target_of("https://hooks.example.org/x", ["hooks.example.org"])
    assert reachable(listed, [address]) == address


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"])
def test_a_public_address_is_taken(address: str) -> None:
    assert is_public(address)
    assert reachable(target_of("https://hooks.example.org/x", []), [address]) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x.example",
        "https://",
        "https:///path",
        "http://x.example/",
        "https://user:word@x.example/",
        "https://x.example/#part",
        "https://x.example:70000/",
        "https://x.example/ a",
        "https://x.example/\n",
        "https://[::1/",
        # What the system's look-up of names would end with in an error of its own.
        f"https://{'a' * 64}.example/",
        "https://a..example/",
        "https://.example/",
        "file:///etc/passwd",
        "https://" + "x" * 3000,
    ],
)
def test_what_is_no_url_of_the_kind_is_refused(url: str) -> None:
    with pytest.raises(BadTarget):
        target_of(url, [])


def test_a_listed_host_is_that_host_alone() -> None:
    assert target_of("http://CI.internal:8080/x", ["ci.internal:8080"]).listed
    assert target_of("http://[::1]:8080/x", ["[::1]:8080"]).listed
    for hosts in (["ci.internal:81"], ["internal"], ["ci.internal.example"], []):
        with pytest.raises(BadTarget):
            target_of("http://ci.internal:8080/x", hosts)
