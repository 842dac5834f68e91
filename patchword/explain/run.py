"""``patchword explain``: why a picture and a sentence got their score, as a picture, a page or numbers.

Any method: ``method.explain`` gives one part for every word and patch, and the parts add up to the score.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from patchword.data.pictures import decode
from patchword.data.table import Split
from patchword.encoders.patches import RegionsConfig
from patchword.errors import ConfigError, DataError
from patchword.evaluate.model_notes import stand_in_notes
from patchword.evaluate.opening import open_for
from patchword.explain.lit_words import explain_picture, light_words, lit_words
from patchword.files import replacing
from patchword.loading import load
from patchword.model import Model
from patchword.search import check_query, find_image
from patchword.types import Alignment

SUFFIXES = (".png", ".html", ".json")


@dataclass(frozen=True)
class Explanation:
    """Why an image and a caption got their score.

    Attributes:
        alignment: parts ``(L, R)`` with words, and with boxes where they are known.
        caption: its text.
        image: id or file of the image.
        model: method and folder.
        picture: file to draw on, when known.
        notes: what else a reader has to know, such as vectors that stand in for CLIP's.
    """

    alignment: Alignment
    caption: str
    image: str
    model: str
    picture: Path | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values: words with their parts, the parts of all patches, boxes, score."""
        found = self.alignment
        words = [
            {"text": word.text, "part": word.part, "is_mark": word.is_mark, "strongest_patch": word.patch}
            for word in lit_words(found)
        ]
        return {
            "model": self.model,
            "image": self.image,
            "picture": None if self.picture is None else str(self.picture),
            "caption": self.caption,
            "score": found.score,
            "sum_of_parts": float(found.parts.double().sum()),
            "words": words,
            "boxes": None if found.boxes is None else found.boxes.tolist(),
            "parts": found.parts.tolist(),
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The words with what they add, as text."""
        words = lit_words(self.alignment)
        width = max(len(word.text) for word in words)
        lines = [f"{word.text:<{width}}  {word.part:+9.4f}  patch {word.patch}" for word in words]
        lines.append(f"{'score':<{width}}  {self.alignment.score:+9.4f}")
        return "\n".join([*lines, *(f"note: {text}" for text in self.notes)])

    def facts(self) -> list[str]:
        """What was explained, in a sentence or two, and the notes."""
        found = self.alignment
        known = "" if found.boxes is not None else " Where its patches are is not known."
        return [
            f"Image {self.image}, scored {found.score:.4f} by {self.model}.",
            f"{len(found.parts)} words and marks x {found.parts.shape[1]} patches.{known}",
            *(f"{text[:1].upper()}{text[1:]}." for text in self.notes),
        ]

    def save(self, path: Path | str) -> Path:
        """Write ``.png``, ``.html`` or ``.json``; a file that is there is replaced by a complete one only.

        Raises:
            ConfigError: the name ends otherwise.
            DataError: the picture can not be decoded.
        """
        path = Path(path)
        writers: dict[str, Callable[[Path], None]] = {
            ".png": self._write_png,
            ".html": self._write_html,
            ".json": self._write_json,
        }
        check_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            writers[path.suffix.lower()](draft)
        return path

    def _picture(self) -> Image.Image | None:
        return None if self.picture is None else Image.fromarray(decode(self.picture))

    def _write_png(self, path: Path) -> None:
        from patchword.explain.heat import draw_png

        draw_png(self.alignment, self._picture(), self.caption, " ".join(self.facts())).save(path, "PNG")

    def _write_html(self, path: Path) -> None:
        from patchword.explain.page import explanation_page

        html = explanation_page(self.alignment, self._picture(), self.caption, self.facts())
        path.write_text(html, encoding="utf-8")

    def _write_json(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def explain(
    run: Path | str | Model,
    image: Path | str | int,
    caption: str,
    *,
    data: Path | str | Split | None = None,
    split: str = "test",
    name: str | None = None,
    picture: Path | str | None = None,
    device: str = "cpu",
) -> Explanation:
    """Explain the score of one image and one caption.

    Args:
        run: run folder, checkpoint folder or loaded model.
        image: a picture file, for models over raw images; or an image of a split: its id, its file, its position.
        caption: any text; a method with side inputs of captions needs one of the split's own.
        data: data folder or open split; needed by models that read features.
        split, name: which split of which data set.
        picture: file to draw on, when the data do not name it.
        device: where the weights of a run go.

    Raises:
        DataError: there is no such image, the caption has no known word, or a side input is missing.
        CheckpointError: the model holds no vocabulary.
    """
    model = run if isinstance(run, Model) else load(run, device=device)
    check_query(model, caption)
    drawn = drawn_on(picture)
    if data is None:
        return _explain_file(model, image, caption, drawn)
    opened = data if isinstance(data, Split) else open_for(model, data, split, name=name)
    position = find_image(opened, image)
    if position is None:
        if isinstance(image, str | Path) and Path(image).is_file() and _reads_pictures(model):
            return _explain_file(model, image, caption, drawn)
        features = "" if _reads_pictures(model) else " A picture file alone has no region features to explain."
        raise DataError(
            f"image '{image}' is not in {opened.dataset}/{opened.name}. Expected an id ({opened.image_ids[0]} ...) "
            f"or a position from 0 to {opened.n_images - 1}.{features}"
        )
    found = light_words(model, opened, position, caption)
    if drawn is None and opened.files is not None and opened.files[position].is_file():
        drawn = opened.files[position]
    notes = stand_in_notes(model, opened)
    return Explanation(found, caption, opened.image_ids[position], model.label, drawn, notes)


def _explain_file(model: Model, image: Path | str | int, caption: str, drawn: Path | None) -> Explanation:
    """Explain a picture file that belongs to no split."""
    if not _reads_pictures(model):
        raise DataError(
            f"this {model.method.name} reads region features, so '{image}' has to be an image of a split. "
            "Add --data DIR and --split NAME."
        )
    needed = (*model.method.image_extras, *model.method.caption_extras)
    if needed:
        raise DataError(
            f"this {model.method.name} also reads `{needed[0]}`, which comes with a split only. "
            "Add --data DIR and --split NAME."
        )
    path = Path(str(image))
    if not path.is_file():
        raise DataError(f"'{path}' is missing. Expected a picture file, or --data DIR with an image of a split.")
    return Explanation(explain_picture(model, path, caption), caption, str(image), model.label, drawn or path)


def drawn_on(picture: Path | str | None) -> Path | None:
    """The picture file that was named to draw on.

    Raises:
        DataError: it is missing.
    """
    drawn = None if picture is None else Path(picture)
    if drawn is not None and not drawn.is_file():
        raise DataError(f"'{drawn}' is missing. Expected the picture file to draw on.")
    return drawn


def _reads_pictures(model: Model) -> bool:
    return not isinstance(model.method.config.image, RegionsConfig)


def check_suffix(path: Path) -> None:
    """Refuse a file name whose end does not say what to write.

    Raises:
        ConfigError: it is not one of .png, .html, .json.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"'{path}' ends in '{path.suffix}'. Expected a file that ends in {', '.join(SUFFIXES)}.")
    if path.is_dir():
        raise ConfigError(f"'{path}' is a folder. Expected a file to write.")
