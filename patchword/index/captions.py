"""The caption set of an index: sentences encoded as the images are, so that a picture finds its words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from patchword.console import ProgressBar
from patchword.data.open import open_split, splits_of
from patchword.data.table import Extra
from patchword.data.tabular import read_rows
from patchword.data.text_files import canonical_id, read_captions, read_lines, require_caption, strip_suffix
from patchword.errors import ConfigError, DataError
from patchword.index.compacting import join_small
from patchword.index.damage import lost_ids, runs
from patchword.index.encode import Encoder, to_rows
from patchword.index.model_place import follow_model
from patchword.index.options import EncodeOptions
from patchword.index.pending import Pending
from patchword.index.records import NewCaption
from patchword.index.restoring import NOT_FINITE
from patchword.index.results import CaptionChanges
from patchword.index.sources import open_encoder
from patchword.index.update import SAVE_EVERY_S
from patchword.index.writer import Writer, open_writer
from patchword.model import Model
from patchword.store.estimate import require_space, set_bytes
from patchword.store.model_hash import ModelGiven
from patchword.store.schema import generation

BLOCK = 2048


@dataclass(frozen=True)
class Said:
    """A caption of a file.

    Attributes:
        text: the sentence.
        image: what the file says it is of: a path, a name or an id.
        line: in the file, or its number in the table or data set, from 1.
        part: which of ``CaptionFile.extras``.
        row: position in it.
    """

    text: str
    image: str | None
    line: int
    part: int = 0
    row: int = 0


@dataclass(frozen=True)
class CaptionFile:
    """Captions to be indexed.

    Attributes:
        captions: in order.
        extras: side inputs of the captions, one mapping for each part of a data folder.
    """

    captions: list[Said]
    extras: list[Mapping[str, Extra]] = field(default_factory=lambda: [{}])


def read_caption_file(file: Path | str, *, name: str | None = None, splits: Sequence[str] = ()) -> CaptionFile:
    """Read a text file with a caption per line, JSON Lines of ``{"caption", "image"?}``, a table or a data folder.

    Args:
        file: ``.txt``, ``.jsonl``, ``.csv``, ``.tsv`` or ``.json`` (rows with an image and its captions), or a folder.
        name, splits: of a data folder.

    Raises:
        DataError: it is missing or a line is no caption; with the line.
    """
    path = Path(file)
    if path.is_dir():
        return _of_data(path, name, tuple(splits))
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return CaptionFile(list(_of_json_lines(path)))
    if path.suffix.lower() in (".csv", ".tsv", ".json"):
        return CaptionFile(list(_of_table(path)))
    captions = read_captions(path)
    if not captions:
        raise DataError(f"'{path}' has no captions. Expected one per line.")
    return CaptionFile([Said(text, None, line) for line, text in enumerate(captions, start=1)])


def _of_json_lines(path: Path) -> Iterator[Said]:
    for line, text in enumerate(read_lines(path), start=1):
        if not text:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"'{path}' line {line} is not valid JSON: {error}.") from None
        if not isinstance(record, dict) or not {"caption", "captions"} & set(record):
            raise DataError(f'\'{path}\' line {line}: expected {{"caption": "...", "image": "..."}}.')
        texts = record["captions"] if "captions" in record else [record["caption"]]
        image = next((record[key] for key in ("image", "path", "file", "file_name") if key in record), None)
        if not isinstance(texts, list) or not isinstance(image, str | int | None):
            raise DataError(f"'{path}' line {line}: `captions` is no list, or the image is no name.")
        for one in texts:
            where = f"'{path}' line {line}"
            yield Said(require_caption(one, where), None if image is None else str(image), line)


def _of_table(path: Path) -> Iterator[Said]:
    number = 0
    for row in read_rows(path):
        for text in row.captions:
            number += 1
            yield Said(require_caption(text, row.where), row.image or row.id, number)


def _of_data(path: Path, name: str | None, splits: tuple[str, ...]) -> CaptionFile:
    """The captions of a data folder."""
    captions, extras = list[Said](), list[Mapping[str, Extra]]()
    for part, split in enumerate(splits or tuple(splits_of(path, name=name))):
        opened = open_split(path, split, name=name)
        extras.append(opened.caption_extras)
        for row, (text, owner) in enumerate(zip(opened.captions, opened.owner.tolist(), strict=True)):
            image = opened.image_ids[owner] if opened.files is None else opened.files[owner].name
            captions.append(Said(text, image, len(captions) + 1, part, row))
    return CaptionFile(captions, extras)


def add_captions(
    index: Path | str,
    file: Path | str | None = None,
    *,
    name: str | None = None,
    splits: Sequence[str] = (),
    clear: bool = False,
    model: ModelGiven = None,
    device: str = "cpu",
    batch: int = 256,
    console: Console | None = None,
) -> CaptionChanges:
    """Make or extend the caption set of an index. A caption that is there already (same text, same image) is kept.

    Args:
        index: index folder.
        file: text file, JSON Lines file, table or data folder; None with ``clear``: only forget.
        name, splits: of a data folder; all splits by default.
        clear: forget the captions that are there first.
        model, device, batch, console: as for `sync`.

    Raises:
        DataError: the file can not be read, another process writes, or the disk is full.
        ConfigError: the model needs side inputs of captions that are not there, or there is nothing to do.
        CheckpointError: the model is missing or is not the one of the index.
    """
    if file is None:
        if not clear:
            raise ConfigError("no captions to index. Name a file with captions, or forget those there are: --clear.")
        return _clear_captions(index)
    given = read_caption_file(file, name=name, splits=splits)
    with open_writer(index, "captions") as writer:
        follow_model(writer, model)
        cleared = _forget(writer) if clear else 0
        images = _Images(writer)
        there = set(writer.connection.execute("SELECT text, image FROM captions"))
        new, known = list[tuple[Said, int | None]](), 0
        for said in given.captions:
            image = images.find(said.image)
            if (said.text, image) in there:
                known += 1
            else:
                there.add((said.text, image))
                new.append((said, image))
        encoder = Encoder(writer.manifest, model, batch=batch, device=device)
        skipped = _encode(writer, encoder, new, given, batch, console or Console(quiet=True))
        lost = {line for line, _ in skipped}
        return CaptionChanges(
            found=len(given.captions),
            indexed=len(new) - len(skipped),
            unchanged=known,
            skipped=tuple(skipped),
            linked=sum(image is not None and said.line not in lost for said, image in new),
            captions=int(writer.connection.execute("SELECT count(*) FROM captions").fetchone()[0]),
            generation=generation(writer.connection),
            cleared=cleared,
        )


def _clear_captions(index: Path | str) -> CaptionChanges:
    """Forget all captions."""
    with open_writer(index, "captions") as writer:
        cleared = _forget(writer)
        return CaptionChanges(0, 0, 0, (), 0, 0, generation(writer.connection), cleared)


def _forget(writer: Writer) -> int:
    """Remove the captions that are there; returns how many."""
    there = [row[0] for row in writer.connection.execute("SELECT id FROM captions")]
    writer.remove_captions(there)
    return len(there)


def restore_captions(writer: Writer, lost: Sequence[int], options: EncodeOptions) -> tuple[int, int]:
    """Encode captions that are in the catalog and have no vectors, under their ids.

    Those of a model that reads side inputs of a caption are taken out: the catalog does not hold these.

    Args:
        writer: of the index.
        lost: their ids, ascending.
        options: how to encode.

    Returns:
        The number of captions that have vectors again, and of those that were taken out.
    """
    encoder = open_encoder(writer, options)
    if encoder.model.method.caption_extras:
        writer.remove_captions(lost)
        return 0, len(lost)
    done, texts = 0, dict(writer.connection.execute("SELECT id, text FROM captions"))
    for ids in list(runs(writer, "caption", lost, BLOCK)):
        with torch.no_grad():
            sets = encoder.model.encode_captions([texts[one] for one in ids], batch=options.batch)
        pending = Pending()
        pending.add(ids, to_rows(sets, encoder.pool.pool_captions))
        if len(pending):
            writer.restore("caption", pending.items, pending.tensors())
        done += len(pending)
    left = lost_ids(writer, "caption")
    if left:
        writer.remove_captions(left)
    join_small(writer)
    return done, len(left)


class _Images:
    """The indexed images by what a file of captions may call them; read when the first caption names one."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._keys: dict[str, int] | None = None

    def find(self, image: str | None) -> int | None:
        """Id of an indexed image; None when there is no such image, or when several are called so."""
        if image is None:
            return None
        if self._keys is None:
            self._keys = self._read()
        for key in (image, image.rpartition("/")[2], strip_suffix(image.rpartition("/")[2]), canonical_id(image)):
            if key in self._keys:
                return self._keys[key] if self._keys[key] > 0 else None
        return None

    def _read(self) -> dict[str, int]:
        keys: dict[str, int] = {}
        rows = self._writer.connection.execute("SELECT id, path, feature FROM items ORDER BY id").fetchall()
        for make in (str, lambda p: p.rpartition("/")[2], lambda p: strip_suffix(p.rpartition("/")[2]), canonical_id):
            level: dict[str, int] = {}
            for one, path, feature in rows:
                for text in {path, feature.partition("/")[2]} if feature else {path}:
                    key = make(text)
                    level[key] = -1 if level.get(key, one) != one else one
            for key, one in level.items():
                keys.setdefault(key, one)
        return keys


def _encode(
    writer: Writer,
    encoder: Encoder,
    new: Sequence[tuple[Said, int | None]],
    given: CaptionFile,
    batch: int,
    console: Console,
) -> list[tuple[int, str]]:
    """Encode captions shard by shard; returns lines and reasons of those that can not be encoded."""
    skipped: list[tuple[int, str]] = []
    if not new:
        return skipped
    manifest, model = writer.manifest, encoder.model
    _require_extras(model, given)
    require_space(writer.folder.path, len(new) * set_bytes(manifest))
    pending, saved = Pending(), time.monotonic()
    with ProgressBar(len(new), "indexing", "captions", console) as shown:
        for part in range(len(given.extras)):
            mine = [pair for pair in new if pair[0].part == part]
            for start in range(0, len(mine), BLOCK):
                chosen = mine[start : start + BLOCK]
                shown.advance(len(chosen))
                extras = {
                    key: given.extras[part][key].select([said.row for said, _ in chosen])
                    for key in model.method.caption_extras
                }
                with torch.no_grad():
                    sets = model.encode_captions([said.text for said, _ in chosen], batch=batch, extras=extras)
                bad = pending.add(
                    [(said, NewCaption(said.text, image)) for said, image in chosen],
                    to_rows(sets, encoder.pool.pool_captions),
                )
                skipped += [(said.line, NOT_FINITE) for said, _ in bad]
                if pending.bytes >= manifest.shard_mb * 1e6 or time.monotonic() - saved > SAVE_EVERY_S:
                    _save(writer, pending)
                    pending, saved = Pending(), time.monotonic()
        _save(writer, pending)
    return sorted(skipped)


def _save(writer: Writer, pending: Pending) -> None:
    if len(pending):
        writer.add_shard("caption", pending.tensors(), [caption for _, caption in pending.items])
        join_small(writer)


def _require_extras(model: Model, given: CaptionFile) -> None:
    """Refuse captions that lack what the model reads beside them.

    Raises:
        ConfigError: naming the first.
    """
    for name in model.method.caption_extras:
        if any(name not in extras for extras in given.extras):
            raise ConfigError(
                f"this {model.method.name} also reads `{name}` of the captions. Give a data folder that has it."
            )
