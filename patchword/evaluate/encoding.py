"""Vector sets of a split. Under torchrun the batches are dealt to the processes, and all get the same sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rich.console import Console

from patchword.console import ProgressBar
from patchword.data.extras import require_extras, require_finite
from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.model import Model
from patchword.scoring.jobs import process, share
from patchword.types import Encoded

BATCH = 256  # items encoded at a time, for a checkpoint that names no other number


def batch_of(model: Model, asked: int | None = None) -> int:
    """Items that are encoded at a time: as many as asked for, else as when the checkpoint was selected, else 256.

    Where vectors depend on the padding of their batch (``Method.reads_padding``), other numbers give other scores.

    Raises:
        ConfigError: less than one was asked for.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"`eval_batch` is {asked}. Expected 1 or more: the items that are encoded at a time.")
    stored = model.about.get("eval_batch")
    return asked or (stored if type(stored) is int and stored > 0 else BATCH)


def encode_split(
    model: Model,
    split: Split,
    *,
    batch: int | None = None,
    max_words: int | None = None,
    console: Console | None = None,
) -> tuple[Encoded, Encoded]:
    """Vector sets of the images and of the captions of a split.

    Every process computes whole batches of those that one process would make, so the sets are the same to the last
    bit as long as a process uses as many threads (``OMP_NUM_THREADS``).

    Args:
        model: loaded.
        split: with images.
        batch: items encoded at a time; None: see ``batch_of``.
        max_words: captions are cut to this many words; None: as in training.
        console: where progress goes.

    Raises:
        DataError: a side input that the method reads is missing, or an input holds NaN or an infinity: file and row.
    """
    batch = batch_of(model, batch)
    console = console if console is not None else Console(quiet=True)
    source = split.require_images()
    require_extras(split, model.method.image_extras, model.method.caption_extras)
    require_finite(split, model.method.image_extras, model.method.caption_extras)
    processes = process()[1]
    with ProgressBar((split.n_images + split.n_captions) // processes, "encoding", "items", console) as shown:
        if processes == 1:
            images = model.encode_images(source, batch=batch, extras=split.image_extras, progress=shown.advance)
            captions = model.encode_captions(
                split.captions, batch=batch, max_words=max_words, extras=split.caption_extras, progress=shown.advance
            )
            return images, captions

        def some_images(items: list[int]) -> Encoded:
            extras = {name: extra.select(items) for name, extra in split.image_extras.items()}
            return model.encode_images(source.select(items), batch=batch, extras=extras, progress=shown.advance)

        def some_captions(items: list[int]) -> Encoded:
            texts = [split.captions[item] for item in items]
            extras = {name: extra.select(items) for name, extra in split.caption_extras.items()}
            return model.encode_captions(texts, batch=batch, max_words=max_words, extras=extras, progress=shown.advance)

        by_length = list(range(split.n_captions))  # the order in which one process batches captions
        if not model.method.reads_padding:
            lengths = [len(tokens) for tokens in model.tokenize(split.captions, max_words=max_words)]
            by_length.sort(key=lambda item: lengths[item])
        images = encode_dealt(range(split.n_images), batch, some_images)
        return images, encode_dealt(by_length, batch, some_captions)


def encode_dealt(order: Sequence[int], batch: int, encode: Callable[[list[int]], Encoded]) -> Encoded:
    """Encode items batch by batch, each batch in one process; every process gets all items.

    Args:
        order: the items 0 to N - 1 in the order in which they are batched.
        batch: items of a batch.
        encode: encodes the items given, in their order.

    Returns:
        The sets of the items 0 to N - 1.
    """
    rank, processes = process()
    batches = [list(order[start : start + batch]) for start in range(0, len(order), batch)]
    shares = [[item for one in batches[number::processes] for item in one] for number in range(processes)]
    mine = encode(shares[rank]) if shares[rank] else None
    dealt = [item for one in shares for item in one]
    first = sum(len(one) for one in shares[:rank])
    sizes = {"lengths": torch.zeros(len(dealt), dtype=torch.long), "width": torch.zeros(processes, dtype=torch.long)}
    if mine is not None:
        sizes["lengths"][first : first + len(mine)] = mine.lengths
        sizes["width"][rank] = mine.vectors.shape[1]
    share(sizes)
    lengths = sizes["lengths"]
    vectors = torch.zeros(int(lengths.sum()), int(sizes["width"].max()))
    if mine is not None:
        start = int(lengths[:first].sum())
        vectors[start : start + len(mine.vectors)] = mine.vectors
    share({"vectors": vectors.view(torch.int32)})
    return Encoded(vectors, lengths).select(torch.argsort(torch.tensor(dealt)))
