from functools import cache
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchword.data.words import sentences, split_words


@cache
def nltk() -> Any:
    """Their tokenizer; a second of imports, so not at the top of the file."""
    return import_module("nltk.tokenize.destructive").NLTKWordTokenizer()


CAPTIONS = [
    "a man in a blue shirt is standing on a ladder cleaning a window .",
    "Two young guys with shaggy hair look at their hands while hanging out in the yard.",
    "the dog's ball isn't here",
    "they're sure he'll say i'm late, you've won and she'd stay",
    "kids' toys on the boys' floor",
    "a sign that reads 'stop' hangs there",
    'a shirt that says "i love ny" on the front',
    'a sign saying "keep out".',
    '"hello" says the man',
    'the word "food"',
    "''quoted'' text",
    "``already`` quoted ''text''",
    "a ` lone backtick",
    "he can't, won't and shouldn't",
    "he cannot go, gonna wanna gotta gimme lemme d'ye more'n 'tis 'twas",
    " 'tis the season",
    "i wanna",
    "i wanna go",
    "cannot",
    "an old-fashioned t-shirt, size 10.5, costs $3,000.00",
    "1,000 people at 3:45 p.m",
    "ratio 3:4, time 12:30, list: one,two",
    "a 50% off sale & more @ store #5",
    "wait... what..",
    "hmm ...",
    "a pause.... and more",
    "e.g. this",
    "the u.s. flag",
    "u.s.a.",
    "he said: yes; no",
    "(in parentheses) [brackets] {braces} <angles>",
    "end in parenthesis (like this.)",
    'end in quote "like this."',
    "end in quotes 'like this.'",
    "dash--dash and dash -- dash",
    "em—dash and en–dash",
    "“curly quotes” and ‘single ones’",
    "the dog’s tail isn’t long",
    "„german“ «french»",
    "what?! really?? yes!!",
    "asterisk * and *bold*",
    "slash and/or back\\slash",
    "tabs\tand  double   spaces",
    "trailing space ",
    " leading space",
    "a.b.c d.e",
    "version 2.0.",
    "mr. smith",
    "o'clock at o'neil's",
    "rock 'n' roll, rock 'n roll",
    "y'all ain't",
    "the 1990's and '90s",
    "''",
    "'",
    '"',
    ".",
    "..",
    "...",
    ",",
    "a,",
    "a:",
    "a ,b",
    "5,a a,5",
    "'re 've 'll 's",
    "he's 'she's'",
    "d'ye see",
    "naïve café crème brûlée",
    "日本語 テキスト",
    "emoji 😀 here",
    "under_score snake_case",
    "http://example.com/a?b=c&d=e",
    "mail me@here.com",
    "100°f",
    "c++ & c#",
    "+5 -3 =2",
    "a|b ~c ^d",
    "\"'nested'\"",
    "'\"nested\"'",
    '("quote in parens")',
    "a man (with a 'hat') sits",
    "dogs'.",
    "it's.",
    "the end .",
    "the end ..",
    "5 ft. tall man",
    "a woman wearing a net on her head cutting a cake",
    "",
    "   ",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_equal_to_nltk_on_one_sentence(caption: str) -> None:
    whole = [w for s in sentences(caption.lower()) for w in nltk().tokenize(s)]
    assert split_words(caption) == whole
    if len(sentences(caption)) <= 1:
        assert split_words(caption) == nltk().tokenize(caption.lower())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "dog", "n't", "'s", "'", '"', "''", "``", ",", ":", "3", ".", "..", "(", ")", "--"])
        | st.sampled_from(["cannot", "gonna", "can't", "'tis", "$", "%", "«", "”", "’", "-", ";", "don't", "'ll", " "]),
        max_size=8,
    ),
    st.sampled_from(["", " "]),
)
def test_equal_to_nltk_on_any_mixture_without_sentence_breaks(parts: list[str], glue: str) -> None:
    text = glue.join(parts).lower()
    if len(sentences(text)) == 1:
        assert split_words(text) == nltk().tokenize(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one. two", ["one.", "two"]),
        ("one! two? three.", ["one!", "two?", "three."]),
        ('he says "go." she goes.', ['he says "go."', "she goes."]),
        ("mr. smith and dr. who vs. the rest", ["mr. smith and dr. who vs. the rest"]),
        ("b. smith sits. c. jones stands.", ["b. smith sits.", "c. jones stands."]),
        ("at 5 p.m. they eat", ["at 5 p.m. they eat"]),
        ("no break.here", ["no break.here"]),
        ("wait... more", ["wait...", "more"]),
        ("3.5 men", ["3.5 men"]),
        ("a dog  .", ["a dog  ."]),
        ("", []),
        (" ", []),
    ],
)
def test_sentence_breaks(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_a_full_stop_inside_is_split_off_at_a_break_only() -> None:
    assert split_words("A dog runs. A cat sits.") == ["a", "dog", "runs", ".", "a", "cat", "sits", "."]
    assert split_words("Mr. Smith sits.") == ["mr.", "smith", "sits", "."]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_words_hold_every_character_but_blanks_and_quotes(text: str) -> None:
    words = split_words(text)
    assert all(words)
    assert all(not w.isspace() and w.split() == [w] for w in words)

    def bare(value: str) -> str:
        return "".join(c for c in value.lower() if not c.isspace() and c not in "\"'`")

    assert bare("".join(words)) == bare(text)
