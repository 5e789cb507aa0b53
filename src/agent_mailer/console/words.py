"""In which language and colours a person reads, and a text in that language. English texts name themselves."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec
from fastapi import Request

from agent_mailer.console.words_zh import ZH

VIEW_COOKIE = "agent_mailer_view"


class Language(StrEnum):
    ENGLISH = "en"
    CHINESE = "zh"


class Theme(StrEnum):
    SYSTEM = "system"
    LIGHT = "light"
    DARK = "dark"


class View(msgspec.Struct, frozen=True):
    """`keys`: whether single keys act."""

    language: Language = Language.ENGLISH
    theme: Theme = Theme.SYSTEM
    keys: bool = True

    def cookie(self) -> str:
        return f"{self.language}.{self.theme}.{'keys' if self.keys else 'none'}"

    def text(self, english: str, /, **values: object) -> str:
        """That text in this language, with the values in their places."""
        found = english if self.language is Language.ENGLISH else ZH.get(english, english)
        return found.format_map(_Shown(values)) if values else found

    def count(self, one: str, many: str, number: int, /, **values: object) -> str:
        return self.text(one if number == 1 else many, n=number, **values)


class _Shown(dict[str, object]):
    def __init__(self, values: Mapping[str, object]) -> None:
        super().__init__(values)

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def view_of(request: Request) -> View:
    """As the cookie says; without one the language that the browser asks for first."""
    language, _, rest = request.cookies.get(VIEW_COOKIE, "").partition(".")
    theme, _, keys = rest.partition(".")
    if language in tuple(Language):
        return View(Language(language), Theme(theme) if theme in tuple(Theme) else Theme.SYSTEM, keys != "none")
    first = request.headers.get("accept-language", "").strip().lower()
    return View(Language.CHINESE if first.startswith("zh") else Language.ENGLISH)
