"""Words, languages and concepts of a prompt: the same way of reading for over thirty languages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.routing import tokens
from llm_server.orchestration.routing.concepts import EMPTY, PHRASE_FOLLOWS, Concepts
from llm_server.orchestration.routing.weights import load

ANY_TEXT = st.text(st.characters(codec=None) | st.characters(categories=["Cs"]), max_size=300)


def named(prompt: str) -> tuple[str, set[str]]:
    concepts, words = load().concepts, tokens.words(prompt)
    language = concepts.language(words)
    return language, {concepts.names[number] for number in concepts.of(words, language)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't use C++, C# or node.js!", ["don't", "use", "c++", "c#", "or", "node.js"]),
        ("用python写代码", ["用", "python", "写代码"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("İstanbul'a", ["istanbul'a"]),
        ("", []),
    ],
)
def test_words_are_found_in_every_script(text: str, words: list[str]) -> None:
    """Marks stay with their letters, and names of languages stay whole."""
    assert tokens.words(text) == words


def test_a_run_without_spaces_is_read_in_pairs_of_characters() -> None:
    """Other words stay whole."""
    assert tokens.pieces(["写代码", "python", "字"]) == ["写代", "代码", "python", "字"]


@pytest.mark.parametrize(
    ("prompt", "language", "concept"),
    [
        ("Write a poem about my dog", "en", "poem"),
        ("Übersetze den Brief ins Englische", "de", "translate"),
        ("Rédige un poème sur la mer", "fr", "poem"),
        ("¿Cuánto impuesto tengo que pagar este año?", "es", "money"),
        ("帮我写一封邮件给客户", "zh", "email"),
        ("この文章を要約してください", "ja", "summarise"),
        ("แปลข้อความนี้เป็นภาษาอังกฤษ", "th", "translate"),
        ("Напиши функцию на Python", "ru", "code"),
        ("اكتب قصة قصيرة عن البحر", "ar", "story"),
        ("Napisz wiersz o jesieni", "pl", "poem"),
    ],
)
def test_concepts_are_found_in_many_languages(prompt: str, language: str, concept: str) -> None:
    """The language decides which lists are used."""
    found, concepts = named(prompt)

    assert found == language
    assert concept in concepts


@pytest.mark.parametrize(
    ("letter", "language"),
    [
        ("\u0371", "el"),  # the first letter of all scripts that tell a language
        ("ש", "he"),
        ("ب", "ar"),
        ("پ", "fa"),
        ("क", "hi"),
        ("ক", "bn"),
        ("ก", "th"),
        ("あ", "ja"),
        ("字", "zh"),
        ("가", "ko"),
    ],
)
def test_a_script_of_one_language_tells_it(letter: str, language: str) -> None:
    """No word needs to be known."""
    assert load().concepts.language([letter * 12, "word"]) == language


def test_a_phrase_needs_all_its_words() -> None:
    """Its first word alone is not the phrase."""
    assert "shopping" in named("sneakers under budget, black friday discount")[1]
    assert "rewrite" in named("put this into sentence structure that is correct")[1]
    assert "rewrite" not in named("one sentence about the sea")[1]


def test_lists_of_other_languages_are_not_used() -> None:
    """The German "war" (was) is not the English war."""
    assert "history" not in named("Das war ein schöner Tag mit der Familie und den Kindern")[1]


@given(ANY_TEXT)
def test_no_text_breaks_it(text: str) -> None:
    """Lone surrogates, marks without letters, and mixtures of scripts are read too."""
    language, concepts = named(text)

    assert language in {*load().concepts.languages, "en"}
    assert concepts <= set(load().concepts.names)


def test_the_marker_of_phrases_is_no_concept() -> None:
    """A table of one phrase: its parts name nothing."""
    concepts = Concepts(names=["x"], languages=["en"], function_words={}, checks=[0] * 4, numbers=bytes([EMPTY]) * 8)

    assert concepts.of(["any", "words"], "en") == frozenset()
    assert max(load().concepts.names.index(name) for name in load().concepts.names) < PHRASE_FOLLOWS


def test_words_of_prompts_are_not_kept() -> None:
    """They may be a tenant's secrets; only their concepts are remembered."""
    concepts = load().concepts
    concepts.of(["hunter2secret"], "en")

    assert "hunter2secret" not in str(concepts._known)
    assert all(isinstance(key, int) for key in concepts._known)


def test_hundreds_of_marks_on_a_letter_are_cut() -> None:
    """Sorting them would take milliseconds; sixteen stay."""
    assert tokens.words("e" + "\u0301" * 300) == ["é" + "\u0301" * 15]


def test_many_different_words_do_not_fill_the_memory() -> None:
    """What is remembered about words is bounded."""
    concepts = load().concepts
    for start in range(0, 70_000, 500):
        concepts.of([f"word{n}" for n in range(start, start + 500)], "en")

    assert len(concepts._known) <= 20_000


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_a_text_in_ascii_has_the_same_words_beside_other_letters(text: str) -> None:
    """ASCII has a faster pattern of its own."""
    words = tokens.words(text)

    assert tokens.words(f"{text} é") == [*words, "é"]
    assert tokens.words(f"{text} हि") == [*words, "हि"]


def test_a_prompt_of_one_sentence_names_its_concepts_in_every_place() -> None:
    """The words of one place are looked up once, and stand for those places that have the same."""
    concepts, poem, mail = load().concepts, ["write", "a", "poem"], ["send", "an", "email"]
    size = len(concepts.names)
    of_poem, of_mail = (sorted(concepts.of(words, "en")) for words in (poem, mail))

    assert of_poem
    assert of_mail
    assert concepts.rows((poem, poem, poem)) == [place * size + n for place in range(3) for n in of_poem]
    assert concepts.rows((poem, mail, poem)) == [
        *of_poem,
        *(size + n for n in of_mail),
        *(2 * size + n for n in of_poem),
    ]
