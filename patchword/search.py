"""Find images by a sentence and sentences by an image, exactly: every item of the split is scored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch

from patchword.data.clip_features import ClipEncoder
from patchword.data.extras import MemoryExtra
from patchword.data.pictures import PictureFiles
from patchword.data.table import Extra, Split
from patchword.data.text_files import require_whole
from patchword.data.tokenizers import WordTokenizer, require_tokenizer
from patchword.data.words import split_words
from patchword.errors import ConfigError, DataError
from patchword.evaluate.opening import open_for
from patchword.loading import load
from patchword.model import Model
from patchword.types import Encoded


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        rank: from 1.
        score: the method's score.
        image_id: the image found (or the image that the caption found belongs to).
        file: its picture file, when known.
        caption: for image -> caption search: the caption found.
    """

    rank: int
    score: float
    image_id: str
    file: str | None = None
    caption: str | None = None


class Searcher:
    """An encoded split that answers queries; encoding happens once.

    Args:
        model: any loaded model.
        split: the collection.
        batch: items encoded at a time.
        clip: CLIP model folder, for methods that read CLIP's vector of a sentence (AAHR).
    """

    def __init__(self, model: Model, split: Split, *, batch: int = 256, clip: Path | str | None = None) -> None:
        self.model, self.split = model, split
        self._clip = None if clip is None else ClipEncoder(clip)
        self.images: Encoded = model.encode_images(split.require_images(), batch=batch, extras=split.image_extras)
        self._captions: Encoded | None = None
        self._batch = batch

    @property
    def captions(self) -> Encoded:
        """The encoded captions, made when first needed."""
        if self._captions is None:
            self._captions = self.model.encode_captions(
                self.split.captions, batch=self._batch, extras=self.split.caption_extras
            )
        return self._captions

    def by_text(self, query: str, k: int = 10) -> list[Hit]:
        """The k best images for a sentence.

        Raises:
            DataError: the query is empty, or the model knows none of its words.
            ConfigError: k is below 1, or no whole number.
        """
        check_k(k)
        check_query(self.model, query)
        scores = self.model.score(self.images, self._one_query(query))[:, 0]
        return [
            Hit(rank, float(scores[i]), self.split.image_ids[i], file_of(self.split, i))
            for rank, i in enumerate(best(scores, k), start=1)
        ]

    def by_image(self, image: str | Path, k: int = 10) -> list[Hit]:
        """The k best captions for an image of the split (by id or file), or for another picture file.

        Raises:
            DataError: the image is neither in the split nor a readable file that the model can encode.
            ConfigError: k is below 1, or no whole number.
        """
        check_k(k)
        scores = self.model.score(self._one_image(image), self.captions)[0]
        return [
            Hit(
                rank,
                float(scores[j]),
                self.split.image_ids[int(self.split.owner[j])],
                file_of(self.split, int(self.split.owner[j])),
                self.split.captions[j],
            )
            for rank, j in enumerate(best(scores, k), start=1)
        ]

    def _one_query(self, query: str) -> Encoded:
        return self.model.encode_captions([query], extras=query_extras(self.model, [query], self._clip))

    def _one_image(self, image: str | Path) -> Encoded:
        position = find_image(self.split, image)
        if position is not None:
            return self.images.slice(position, position + 1)
        path = Path(image)
        if not os.path.isfile(path):
            raise DataError(
                f"image '{image}' is neither an id of {self.split.dataset}/{self.split.name} "
                f"({self.split.image_ids[0]} ...) nor a file."
            )
        if not isinstance(self.split.images, PictureFiles):
            raise DataError(
                f"'{image}' is not in {self.split.dataset}/{self.split.name}, "
                "and this model reads region features, which a picture file does not have."
            )
        return self.model.encode_images(PictureFiles([path]))


def find_image(split: Split, image: Path | str | int) -> int | None:
    """Position of an image in a split, None when it is not there.

    Args:
        split: the collection.
        image: its id, its file, the file's name with or without ending, or the position itself.
    """
    wanted = str(image)
    if not isinstance(image, int):
        for k, known in enumerate(split.image_ids):
            if wanted == known:
                return k
        for k, path in enumerate(split.files or ()):
            if wanted in (str(path), path.name, path.stem):
                return k
    return int(wanted) if wanted.isdecimal() and int(wanted) < split.n_images else None


def best(scores: torch.Tensor, k: int) -> list[int]:
    """Positions of the k largest scores, the largest first; equal scores in the order of the collection."""
    order = torch.argsort(scores, descending=True, stable=True)
    return [int(i) for i in order[:k]]


def file_of(split: Split, image: int) -> str | None:
    """Picture file of an image, when known."""
    return None if split.files is None else str(split.files[image])


def check_k(k: int) -> None:
    """Refuse a number of results that can not be given.

    Raises:
        ConfigError: it is below 1, or no whole number.
    """
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"`k` is {k!r}. Expected a whole number, 1 or more.")


def check_query(model: Model, query: str) -> None:
    """Refuse a query that can only give arbitrary results.

    Raises:
        DataError: it is empty, holds half of a character, or no word of it is known.
    """
    require_whole(query, "the query")
    if not query.strip():
        raise DataError('the query is empty. Write a sentence such as "a man in an orange hat".')
    tokenizer = require_tokenizer(model.tokenizer, model.label)
    if not tokenizer.knows(query):
        raise DataError(
            f"the model knows none of the words of {query!r} ({tokenizer.size:,} words in its vocabulary). "
            "Use other words, or a model trained on such captions."
        )


def unknown_words(model: Model, texts: Iterable[str]) -> list[str]:
    """Words that a model's vocabulary lacks, each once and as the model reads it; punctuation is not named.

    Nothing is unknown to word pieces, which spell a new word.
    """
    if not isinstance(model.tokenizer, WordTokenizer):
        return []
    known = model.tokenizer.vocabulary.ids
    words = [word for text in texts for word in split_words(text)]
    return [word for word in dict.fromkeys(words) if word not in known and any(map(str.isalnum, word))]


def query_extras(model: Model, texts: Sequence[str], clip: ClipEncoder | None) -> dict[str, Extra]:
    """The side inputs that a model reads of sentences nobody has prepared: only CLIP's vector can be made of them.

    Args:
        model: that encodes the sentences.
        texts: the sentences.
        clip: what makes that vector; None when no CLIP was named.

    Raises:
        ConfigError: it is needed, and no CLIP was named.
        DataError: the model reads another side input, which a query does not have.
    """
    needed = model.method.caption_extras
    extras: dict[str, Extra] = {}
    if "clip" in needed:
        if clip is None:
            raise ConfigError("this model also reads CLIP's vector of the sentence. Name a CLIP folder with --clip.")
        extras["clip"] = MemoryExtra({"clip": clip.encode_texts(list(texts))})
    missing = [name for name in needed if name not in extras]
    if missing:
        raise DataError(
            f"this {model.method.name} also reads `{missing[0]}` of a caption, which no query has. "
            "Ask with an image, or use another model."
        )
    return extras


def search_split(model: Model, query: str | Path, split: Split, k: int = 10) -> list[Hit]:
    """One query against a split: a string is a sentence, a ``Path`` is an image."""
    searcher = Searcher(model, split)
    return searcher.by_image(query, k) if isinstance(query, Path) else searcher.by_text(query, k)


def search(
    run: Path | str | Model,
    queries: Iterable[str] = (),
    *,
    data: Path | str | Split,
    split: str = "test",
    name: str | None = None,
    image: str | None = None,
    k: int = 10,
    clip: Path | str | None = None,
    device: str = "cpu",
) -> dict[str, list[Hit]]:
    """Answer queries over a split of a data folder: sentences find images, ``image`` finds captions.

    Args:
        run: run folder, checkpoint folder or loaded model.
        queries: sentences; one alone may be given as it is.
        data: data folder or open split.
        split, name: which split of which data set.
        image: id or file of an image to find captions for.
        k: results per query.
        clip: CLIP model folder, for methods that read CLIP's vector of a sentence (AAHR).
        device: where the weights of a run go, and scores are computed.

    Raises:
        DataError: a query is empty or unknown to the model, or the image can not be encoded.
        ConfigError: k is below 1, or no whole number.
    """
    check_k(k)
    asked, model = _listed(queries), _model_of(run, device)
    for query in asked:
        check_query(model, query)
    searcher = _searcher(model, data, split, name, clip)
    found = {query: searcher.by_text(query, k) for query in asked}
    if image is not None:
        found[image] = searcher.by_image(image, k)
    return found


def search_each(
    run: Path | str | Model,
    queries: Iterable[str],
    *,
    data: Path | str | Split,
    split: str = "test",
    name: str | None = None,
    k: int = 10,
    clip: Path | str | None = None,
    device: str = "cpu",
) -> list[list[Hit] | DataError]:
    """Like `search`, but a sentence that can not be answered does not stop the others: its place holds the reason."""
    check_k(k)
    searcher = _searcher(_model_of(run, device), data, split, name, clip)
    found: list[list[Hit] | DataError] = []
    for query in _listed(queries):
        try:
            found.append(searcher.by_text(query, k))
        except DataError as error:
            found.append(error)
    return found


def _listed(queries: Iterable[str]) -> list[str]:
    """The sentences; a text is one of them, not its letters."""
    return [queries] if isinstance(queries, str) else list(queries)


def _model_of(run: Path | str | Model, device: str) -> Model:
    """A loaded model."""
    return run if isinstance(run, Model) else load(run, device=device)


def _searcher(
    model: Model, data: Path | str | Split, split: str, name: str | None, clip: Path | str | None
) -> Searcher:
    """A split, encoded."""
    opened = data if isinstance(data, Split) else open_for(model, data, split, name=name)
    return Searcher(model, opened, clip=clip)
