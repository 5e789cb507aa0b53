"""Mail in which a person looks for words: as they stand there, however they are written."""

from __future__ import annotations

import pytest

from agent_mailer.people.keeping import SNIPPET, _has_all, snippet, wanted_words


@pytest.mark.parametrize("word", ["Parser", "Straße", "ΣΊΣΥΦΟΣ", "ﬁle", "İzmir", "ŉ", "naïve", "日本", "v2_final"])
def test_a_word_finds_the_mail_in_which_it_stands_as_it_was_typed(word: str) -> None:
    text = f"{'of the other side ' * SNIPPET}\nit is {word}, and no other{' of the other side' * SNIPPET}"
    for typed in (word, f"{word}*", word.upper(), word.lower(), word.casefold()):
        wanted = wanted_words(typed)
        assert _has_all(text, wanted), typed
        assert word in snippet(text, wanted), typed
    assert not _has_all(text.replace(word, ""), wanted_words(word))
    assert not _has_all(text.replace(word, f"a{word}"), wanted_words(word)), "a word is whole"


def test_what_is_shown_stands_around_a_word_that_was_looked_for_and_not_around_one_that_begins_so() -> None:
    text = f"parsers{' and others' * SNIPPET}, then a Parser{' and others' * SNIPPET}"
    assert "Parser" in snippet(text, wanted_words("parser"))
    assert snippet(text, wanted_words("pars*")).startswith("parsers")
    assert snippet(text, wanted_words("zebra")).startswith("parsers"), "of one that the subject has, the beginning"
