"""The verb that says why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from patchword.errors import ConfigError, DataError
from patchword.verbs.options import Device, OptionalPath, OptionalText, OutPath, device_of
from patchword.verbs.output import say, say_json

if TYPE_CHECKING:
    from patchword.explain.run import Explanation
    from patchword.retrieve.engine import Index
    from patchword.store.catalog import Item


def explain(
    run: Annotated[Positional[Path], arg(metavar="RUN|INDEX")],
    image: Annotated[Positional[str], arg(metavar="IMAGE")],
    caption: Annotated[Positional[str], arg(metavar="SENTENCE")],
    *,
    out: OutPath = None,
    data: OptionalPath = None,
    split: str = "test",
    name: OptionalText = None,
    picture: OptionalPath = None,
    model: OptionalPath = None,
    device: Device = "auto",
    json: bool = False,
) -> int:
    """Say which words of a caption made its score with an image, and which patches they looked at.

    Args:
        run: run folder, checkpoint folder or index.
        image: a picture file (models over raw images), the id of an image of a split, or the id or path of one of
            an index.
        caption: a sentence.
        out: what to write: a picture (.png), a page (.html) or numbers (.json).
        data: data folder, when the image is one of a split.
        split: split of it.
        name: data set name, when the folder does not say it.
        picture: picture file to draw on, when the data do not name it.
        model: of the index, where it is now.
        device: auto, cpu or cuda:0.
        json: print JSON.
    """
    from patchword.explain.run import check_suffix
    from patchword.explain.run import explain as explain_score
    from patchword.store.layout import is_index

    if out is not None:
        check_suffix(out)
    computes = device_of(device)
    if is_index(run):
        if data is not None:
            raise ConfigError(f"'{run}' is an index, which holds its images itself. Leave out --data.")
        found = _explain_indexed(run, image, caption, picture=picture, model=model, device=computes)
    else:
        if model is not None:
            raise ConfigError(f"--model names the model of an index, and '{run}' is none. Leave it out.")
        found = explain_score(
            run, image, caption, data=data, split=split, name=name, picture=picture, device=computes
        )  # fmt: skip
    if json:
        say_json(found.to_json())
    else:
        say(found.table())
    if out is not None:
        found.save(out)
        if not json:
            say(f"wrote '{out}'")
    return 0


def _explain_indexed(
    folder: Path, image: str, caption: str, *, picture: Path | None, model: Path | None, device: str
) -> Explanation:
    """Explain an image of an index, given by its id or its path."""
    from patchword.explain.run import Explanation, drawn_on
    from patchword.retrieve.engine import Index

    drawn = drawn_on(picture)
    with Index.open(folder, model=model, device=device) as index:
        item = _item(index, image)
        found = index.explain(item.id, caption)
        return Explanation(found, caption, item.path, index.model.label, drawn or index.picture(item.id))


def _item(index: Index, written: str) -> Item:
    """An image of an index by its id, its path in the index, or its file.

    Raises:
        DataError: there is none, or several roots have one of that path.
    """
    if written.isdecimal():
        return index.item(int(written))
    file = Path(written)
    found = _at(index, f"path = {_quoted(written)}")
    if not found and file.is_file():
        named = f"path = {_quoted(file.name)} or path like {_quoted(f'%/{file.name}')}"
        found = [one for one in _at(index, named) if one.file is not None and one.file.resolve() == file.resolve()]
    if not found:
        raise DataError(f"'{written}' is neither the id nor the path of an image of '{index.folder}'.")
    if len(found) > 1:
        ids = ", ".join(str(one.id) for one in found)
        raise DataError(f"'{written}' is the path of several images of '{index.folder}'. Give one of the ids {ids}.")
    return found[0]


def _at(index: Index, where: str) -> list[Item]:
    return index.catalog.items(index.catalog.where(where))


def _quoted(text: str) -> str:
    """A text as filters write it."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
