"""GloVe and fastText vectors from a local text file, for the words of a vocabulary only.

Source of the look-up rule: ppanzx/CHAN ``lib/encoders.py`` (a missing word is looked up again without ``-``, ``.``,
``'`` and cut before the first ``/``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from patchword.errors import DataError


def plain_form(word: str) -> str:
    """The spelling under which a missing word is looked up a second time.

    Example:
        >>> plain_form("t-shirt/top")
        'tshirt'
    """
    return re.sub(r"[-.']", "", word.split("/", 1)[0])


def read_vectors(path: Path, words: Sequence[str], width: int) -> dict[int, Tensor]:
    """Vectors of the words that the file knows, by word id; the file is streamed, never held.

    Args:
        path: one word and ``width`` numbers per line, blank-separated; a word may hold blanks (". . ." in GloVe 840B);
            a fastText header line (count, width) is skipped.
        words: the vocabulary in the order of its ids.
        width: expected number of components.

    Raises:
        DataError: the file is missing or no text, or a line has another number of components.
    """
    wanted: dict[str, list[int]] = {}
    second: dict[str, list[int]] = {}
    for k, word in enumerate(words):
        wanted.setdefault(word, []).append(k)
        if plain_form(word) != word:
            second.setdefault(plain_form(word), []).append(k)
    rows: dict[int, Tensor] = {}
    later: dict[int, Tensor] = {}
    for number, word, values in _lines(path, width):
        if word not in wanted and word not in second:
            continue
        if len(values) != width:
            raise DataError(
                f"word vectors '{path}' line {number}: {len(values)} numbers for {word!r}. "
                f"Expected {width} (model.text.word_dim)."
            )
        try:
            vector = torch.tensor([float(v) for v in values])
        except ValueError:
            raise DataError(
                f"word vectors '{path}' line {number}: {word!r} is followed by something that is no number."
            ) from None
        rows.update(dict.fromkeys(wanted.get(word, ()), vector))
        later.update(dict.fromkeys(second.get(word, ()), vector))
    return {**later, **rows}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(path: Path, width: int) -> Iterator[tuple[int, str, list[str]]]:
    """Number, word and components of every line but a fastText header."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                word, _, rest = line.rstrip("\n").partition(" ")
                values = rest.split()
                if len(values) > width and not all(map(_is_number, values[:-width])):
                    word, values = " ".join([word, *values[:-width]]), values[-width:]
                if number > 1 or len(values) != 1:
                    yield number, word, values
    except UnicodeDecodeError:
        raise DataError(
            f"word vectors '{path}' is not UTF-8 text. Expected the text form of GloVe or fastText."
        ) from None
    except OSError:
        raise DataError(f"word vectors '{path}' do not exist. Expected a local GloVe or fastText text file.") from None
