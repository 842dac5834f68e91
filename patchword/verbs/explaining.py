"""The verb that says why."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from patchword.verbs.options import OptionalPath, OptionalText, OutPath
from patchword.verbs.output import say, say_json


def explain(
    run: Positional[Path],
    image: Positional[str],
    caption: Positional[str],
    *,
    out: OutPath = None,
    data: OptionalPath = None,
    split: str = "test",
    name: OptionalText = None,
    picture: OptionalPath = None,
    json: bool = False,
) -> int:
    """Say which words of a caption made its score with an image, and which patches they looked at.

    Args:
        run: run folder or checkpoint folder.
        image: a picture file (models over raw images), or the id of an image of a split.
        caption: a sentence.
        out: what to write: a picture (.png), a page (.html) or numbers (.json).
        data: data folder, when the image is one of a split.
        split: split of it.
        name: data set name, when the folder does not say it.
        picture: picture file to draw on, when the data do not name it.
        json: print JSON.
    """
    from patchword.explain.run import check_suffix
    from patchword.explain.run import explain as explain_score

    if out is not None:
        check_suffix(out)
    found = explain_score(run, image, caption, data=data, split=split, name=name, picture=picture)
    if json:
        say_json(found.to_json())
    else:
        say(found.table())
    if out is not None:
        found.save(out)
        if not json:
            say(f"wrote '{out}'")
    return 0
