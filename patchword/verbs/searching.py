"""Verbs that answer a query."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from patchword.errors import ConfigError
from patchword.verbs.output import Strings, say, say_json


def search(
    run: Positional[Path],
    query: Strings = (),
    *,
    data: Path,
    split: str = "test",
    name: str | None = None,
    image: str | None = None,
    k: Annotated[int, arg(aliases=["-k"])] = 5,
    clip: Path | None = None,
    json: bool = False,
) -> int:
    """Search a split exactly: sentences find images, an image finds captions.

    Args:
        run: run folder or checkpoint folder.
        query: one or more sentences.
        data: data folder.
        split: split to search.
        name: data set name, when the folder does not say it.
        image: id or file of an image, to find captions for.
        k: results for each query.
        clip: CLIP model folder, for models that also read CLIP's vector of the sentence (AAHR).
        json: print JSON.
    """
    from patchword.search import search as run_search

    if not query and image is None:
        raise ConfigError("nothing to search for. Give a sentence, or --image ID.")
    if k < 1:
        raise ConfigError(f"`k` is {k}. Expected 1 or more.")
    found = run_search(run, list(query), data=data, split=split, name=name, image=image, k=k, clip=clip)
    if json:
        say_json({q: [asdict(hit) for hit in hits] for q, hits in found.items()})
        return 0
    for q, hits in found.items():
        say(f"{q}")
        for hit in hits:
            what = hit.caption if hit.caption is not None else (hit.file or hit.image_id)
            say(f"  {hit.rank:>2}  {hit.score:8.4f}  {what}")
    return 0
