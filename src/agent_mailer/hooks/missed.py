"""What GitHub could not deliver, while nobody listened, and does not try again by itself: asked for once more.

By its documentation (docs.github.com, "Handling failed webhook deliveries"; REST, "Repository webhooks" and
"Organization webhooks"): deliveries are listed for some days, each attempt by itself, those of one event with one guid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import msgspec

from agent_mailer.errors import MailerError, RefusedFault, UnavailableFault, UsageFault
from agent_mailer.names import printable

API = "https://api.github.com"
SECONDS = 30.0
MOST_PAGES = 100
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
_NAME = r"[A-Za-z0-9_.-]+"
_WHERE = re.compile(rf"{_NAME}(/{_NAME})?")


class Attempt(msgspec.Struct, frozen=True):
    id: int
    guid: str
    event: str = ""
    action: str | None = None
    status: str = ""
    status_code: int = 0

    @property
    def arrived(self) -> bool:
        return self.status == "OK" or 200 <= self.status_code < 300


class GitHub:
    """The deliveries of one webhook. `where` is OWNER/REPO, or an organization's name; `api` the API's root.

    Raises UsageFault for what names none.
    """

    def __init__(self, api: str, token: str, where: str, hook_id: int) -> None:
        if not _WHERE.fullmatch(where) or ".." in where:
            raise UsageFault(
                "bad_repository", f"{printable(where, 80)!r} is no OWNER/REPO", "agent-mailer hook missed -h"
            )
        token = token.strip()
        if not token.isascii() or not token.isprintable():
            raise UsageFault("bad_token", "the token holds characters that none has", "GITHUB_TOKEN=$(gh auth token)")
        try:
            base = httpx.URL(api.rstrip("/"))
        except httpx.InvalidURL as error:
            raise UsageFault("bad_api", f"{printable(api, 80)} is no URL: {error}", "--api https://HOST") from None
        if base.scheme != "https" and base.host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageFault("bad_api", f"{printable(api, 80)}: a token goes out by https alone", "--api https://HOST")
        of = f"repos/{where}" if "/" in where else f"orgs/{where}"
        self._start = f"{base}/{of}/hooks/{hook_id}/deliveries"
        self._client = httpx.Client(
            headers={**_HEADERS, "Authorization": f"Bearer {token}"}, timeout=SECONDS, follow_redirects=False
        )

    def missed(self) -> list[Attempt]:
        """The newest attempt of each event of which none arrived, the oldest event first. Raises as `_ask`."""
        newest: dict[str, Attempt] = {}
        arrived: set[str] = set()
        for attempt in self._attempts():
            newest.setdefault(attempt.guid, attempt)
            if attempt.arrived:
                arrived.add(attempt.guid)
        return [one for guid, one in reversed(newest.items()) if guid not in arrived]

    def ask_again(self, attempt: Attempt) -> None:
        """Have it delivered once more; that is a replay for whoever had it. Raises as `_ask`."""
        self._ask("POST", f"{self._start}/{attempt.id}/attempts")

    def close(self) -> None:
        self._client.close()

    def _attempts(self) -> Iterator[Attempt]:
        url = f"{self._start}?per_page=100"
        for _ in range(MOST_PAGES):
            answer = self._ask("GET", url)
            try:
                yield from msgspec.json.decode(answer.content, type=list[Attempt])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UnavailableFault("bad_answer", f"{url}: no list of deliveries: {error}", "try again") from None
            url = answer.links.get("next", {}).get("url", "")
            # The token goes nowhere else.
            if not url.startswith(self._start):
                return

    def _ask(self, method: str, url: str) -> httpx.Response:
        """Raises UnavailableFault, RefusedFault (the token), MailerError (no such webhook)."""
        try:
            answer = self._client.request(method, url)
        except httpx.HTTPError as error:
            raise UnavailableFault("no_github", f"{url}: {str(error) or type(error).__name__}", "try again") from None
        if answer.status_code in (401, 403):
            fix = "give GITHUB_TOKEN one that may administer the repository's webhooks"
            raise RefusedFault("token_refused", f"{url}: {answer.status_code}: the token is not taken", fix)
        if answer.status_code == 404:
            fix = "its number is the last part of its page's address at GitHub; the token must see it"
            raise MailerError("no_webhook", f"{url}: 404: there is no such webhook", fix)
        if not answer.is_success:
            raise UnavailableFault("no_github", f"{url}: {answer.status_code}", "try again")
        return answer
