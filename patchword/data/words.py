"""Splitting a caption into words as the SCAN family does: lower case, sentence by sentence, Treebank rules.

The published vocabularies and weights were made with NLTK's ``word_tokenize``. NLTK needs downloaded data, so the rules
are written here once more; on the captions of Flickr8k, Flickr30K and COCO both give the same words
(tests/data/test_words.py).
"""

from __future__ import annotations

import re

# (pattern, replacement), applied in this order. Conventions of the Penn Treebank: quotes become `` and '', punctuation
# and clitics stand alone, a full stop is split off at the end of a sentence only.
_OPENING_QUOTES = [
    (r"([«“‘„]|`+)", r" \1 "),
    (r'^"', r"``"),
    (r"(``)", r" \1 "),
    (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
    (r"(?<!\w)'(?=\w)(?!(?:re|ve|ll|[mtsdn])\b)", r"' "),
]
_PUNCTUATION = [
    (r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 "),
    (r"([:,])([^\d])", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"(\.{2,})", r" \1 "),
    (r"([;@#$%&])", r" \1 "),
    (r"([\u2012-\u2015])", r" \1 "),
    (r"([^.])(\.)([\])}>\"']*)\s*$", r"\1 \2\3 "),
    (r"([?!])", r" \1 "),
    (r"([^'])' ", r"\1 ' "),
    (r"([*])", r" \1 "),
    (r"([\]\[(){}<>])", r" \1 "),
    (r"--", r" -- "),
]
_CLOSING_QUOTES = [
    (r"([»”’])", r" \1 "),
    (r"''", r" '' "),
    (r'"', r" '' "),
    (r"\s+", r" "),
    (r"([^' ])('s|'m|'d|') ", r"\1 \2 "),
    (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
]
_CONTRACTIONS = [
    (r"\b(can)(not)\b", r" \1 \2 "),
    (r"\b(d)('ye)\b", r" \1 \2 "),
    (r"\b(gim)(me)\b", r" \1 \2 "),
    (r"\b(gon)(na)\b", r" \1 \2 "),
    (r"\b(got)(ta)\b", r" \1 \2 "),
    (r"\b(lem)(me)\b", r" \1 \2 "),
    (r"\b(more)('n)\b", r" \1 \2 "),
    (r"\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r" ('t)(is)\b", r" \1 \2 "),
    (r" ('t)(was)\b", r" \1 \2 "),
]
_BEFORE = [(re.compile(p), r) for p, r in _OPENING_QUOTES + _PUNCTUATION]
_AFTER = [(re.compile(p), r) for p, r in _CLOSING_QUOTES + _CONTRACTIONS]

_SENTENCE_END = re.compile(r"(?<=[.?!])[\"')\]]*\s+")
_ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "st",
        "jr",
        "sr",
        "vs",
        "etc",
        "no",
        "mt",
        "ft",
        "lt",
        "col",
        "gen",
        "sgt",
        "capt",
        "rev",
        "prof",
        "inc",
        "co",
        "corp",
        "ltd",
        "u.s",
        "a.m",
        "p.m",
        "e.g",
        "i.e",
    ]
)


def sentences(text: str) -> list[str]:
    """Cut a text after ``.``, ``?`` and ``!`` where a blank follows; not after initials and common abbreviations.

    Example:
        >>> sentences("a dog runs. mr. b. smith looks on.")
        ['a dog runs.', 'mr. b. smith looks on.']
    """
    parts: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        before = text[start : match.start()].rsplit(None, 1)
        last = before[-1].rstrip("\"')]") if before else ""
        if last.endswith(".") and (last[:-1] in _ABBREVIATIONS or (len(last) == 2 and last[0].isalpha())):
            continue
        parts.append(text[start : match.end()].rstrip())
        start = match.end()
    if text[start:].strip():
        parts.append(text[start:])
    return parts


def split_words(caption: str) -> list[str]:
    """Words of a caption in lower case, punctuation and clitics on their own.

    Example:
        >>> split_words("A man isn't in the dog's house, near 3,000 trees.")
        ['a', 'man', 'is', "n't", 'in', 'the', 'dog', "'s", 'house', ',', 'near', '3,000', 'trees', '.']
    """
    words: list[str] = []
    for sentence in sentences(caption.lower()):
        for pattern, replacement in _BEFORE:
            sentence = pattern.sub(replacement, sentence)
        sentence = f" {sentence} "
        for pattern, replacement in _AFTER:
            sentence = pattern.sub(replacement, sentence)
        words += sentence.split()
    return words
