"""Score matrices on disk: ours (safetensors), a plain numeric ``.npy``, and the dictionary of the authors' code.

Ours carries what makes a matrix trustworthy later: the ids of its rows, a digest of every caption, the image of each
caption, and where the scores came from.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int
from safetensors import SafetensorError, safe_open

from patchword.data.table import Split
from patchword.errors import ScoreError
from patchword.evaluate.foreign import KnownRows, assume_rows, fit_rows
from patchword.evaluate.matrix import ScoreMatrix, as_array, check_matrix
from patchword.evaluate.npy import read_npy
from patchword.files import replacing, save_tensors
from patchword.scoring.truth import RightPairs

FORMAT = "patchword-scores/1"


@dataclass(frozen=True)
class Provenance:
    """Where scores come from. Empty or None = unknown, and said so.

    Attributes:
        dataset: short name of the data set.
        split: name of the split.
        method: name of the method.
        checkpoint: folder or file that was evaluated.
        selected_on: split on which the checkpoint was chosen.
        encode_s: wall time of encoding images and captions, in seconds.
        score_s: wall time of scoring all pairs, in seconds.
        trained_on: split on which the model was trained.
    """

    dataset: str = ""
    split: str = ""
    method: str = ""
    checkpoint: str = ""
    selected_on: str = ""
    encode_s: float | None = None
    score_s: float | None = None
    trained_on: str = ""


@dataclass(frozen=True)
class SavedScores:
    """A score matrix and what its rows and columns are.

    Attributes:
        scores: ``(N, M)``, one row an image, one column a caption.
        owner: image of each caption.
        image_ids: N ids; None when the file has none.
        caption_digests: one 64-bit digest a caption text; None when the file has none.
        provenance: where the scores come from.
        notes: decisions taken while reading or combining, to be shown.
        path: the file, for messages.
        warnings: what a reader must know before trusting numbers made from them.
        assumed: how ``owner`` was assumed, as the notes say it, where nothing but the sizes was known; empty otherwise.
    """

    scores: ScoreMatrix
    owner: Int[np.ndarray, " captions"]
    image_ids: tuple[str, ...] | None = None
    caption_digests: Int[np.ndarray, " texts"] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    notes: tuple[str, ...] = ()
    path: str = "memory"
    warnings: tuple[str, ...] = ()
    assumed: str = ""

    def __post_init__(self) -> None:
        n_images, n_captions = check_matrix(self.scores)
        try:
            RightPairs.of(self.owner, n_images, n_captions)
        except ScoreError as error:
            raise ScoreError(f"'{self.path}': {error}") from None
        if self.image_ids is not None and len(self.image_ids) != n_images:
            raise ScoreError(f"'{self.path}': {len(self.image_ids)} image ids for {n_images} rows. Expected one each.")
        if self.image_ids is not None and len(set(self.image_ids)) != n_images:
            name, times = Counter(self.image_ids).most_common(1)[0]
            raise ScoreError(f"'{self.path}': image id {name!r} occurs {times} times. Expected every image once.")
        if self.caption_digests is not None and len(self.caption_digests) != n_captions:
            found = len(self.caption_digests)
            raise ScoreError(f"'{self.path}': {found} caption digests for {n_captions} columns. Expected one each.")


def caption_digests(captions: Sequence[str]) -> Int[np.ndarray, " captions"]:
    """First 64 bits of the SHA-256 of every caption, so that a difference can be named without storing texts.

    Example:
        >>> a, b, c = caption_digests(["a dog", "a cat", "a dog"])
        >>> bool(a == c), bool(a == b)
        (True, False)
    """
    digests = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in captions)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def data_hash(
    image_ids: Sequence[str] | None,
    digests: Int[np.ndarray, " captions"] | None,
    owner: Int[np.ndarray, " captions"],
) -> str:
    """SHA-256 of ids, captions and owners: equal for equal data in equal order.

    Example:
        >>> owner = np.array([0])
        >>> data_hash(["1"], caption_digests(["a"]), owner) == data_hash(["2"], caption_digests(["a"]), owner)
        False
    """
    total = hashlib.sha256(json.dumps(image_ids and list(image_ids)).encode())
    for numbers in (digests, owner):
        total.update(b"none" if numbers is None else numbers.astype("<i8").tobytes())
    return total.hexdigest()


def save_scores(
    path: str | Path,
    scores: ScoreMatrix,
    *,
    image_ids: Sequence[str],
    captions: Sequence[str],
    owner: Int[np.ndarray, " captions"],
    provenance: Provenance | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write a score matrix with its ids to one file.

    Args:
        path: ends in ``.safetensors``.
        scores: ``(N, M)``; bfloat16 and float16 are stored as float32, which is exact.
        image_ids: N ids.
        captions: M texts, stored as digests.
        owner: image of each caption.
        provenance: where the scores come from.
        notes: kept for whoever reads the file.

    Returns:
        The path written.

    Raises:
        ScoreError: sizes differ, the name ends otherwise, or the disk refused.
    """
    ids, digests, where = tuple(image_ids), caption_digests(captions), provenance or Provenance()
    return write_scores(path, SavedScores(scores, owner, ids, digests, where, tuple(notes), str(path)))


def write_scores(path: str | Path, saved: SavedScores) -> Path:
    """Write a score matrix, an ensemble for instance, with what is known of its rows and columns.

    The file appears complete or not at all.

    Raises:
        ScoreError: the name does not end in ``.safetensors``, or the disk refused.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ScoreError(f"'{target}': expected a name that ends in .safetensors.")
    owner = saved.owner.astype(np.int64)
    header = {
        "format": FORMAT,
        "image_ids": json.dumps(saved.image_ids),
        "provenance": json.dumps(asdict(saved.provenance)),
        "notes": json.dumps(saved.notes),
        "warnings": json.dumps(saved.warnings),
        "assumed": saved.assumed,
        "data_hash": data_hash(saved.image_ids, saved.caption_digests, owner),
    }
    tensors = {"scores": np.ascontiguousarray(as_array(saved.scores)), "owner": owner}
    if saved.caption_digests is not None:
        tensors["caption_digests"] = saved.caption_digests
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as draft:
            save_tensors(tensors, draft, header)
    except (OSError, SafetensorError) as error:
        raise ScoreError(f"'{target}' could not be written: {error}. An older file there is unchanged.") from None
    return target


# What tells the image of each caption of a matrix that does not say it: its split, owners, or other scores.
Known: TypeAlias = Split | SavedScores | Int[np.ndarray, " captions"] | None


def load_scores(path: str | Path, known: Known = None) -> SavedScores:
    """Read a score matrix; nothing stored in the file is ever executed.

    Accepted: our ``.safetensors``; a numeric ``.npy`` of N x kN scores (caption j is taken to belong to image j // k),
    or of kN x kN scores whose rows are equal in runs of k; the ``.npy`` of the authors' code, a dictionary
    ``{"npts": N, "sims": scores}``. With ``known``, a ``.npy`` gets the owners known, see `with_owner_of`.

    Args:
        path: the file.
        known: what was scored: the split, the image of each caption, or other scores of the same rows and columns.

    Raises:
        ScoreError: missing, truncated, of another kind, unsafe, or of a size that is no score matrix (of ``known``).
    """
    source = Path(path)
    if not source.is_file():
        raise ScoreError(f"'{source}' is not a file. Expected a score matrix (.safetensors or .npy).")
    if source.suffix == ".safetensors":
        return with_owner_of(_load_ours(source), known)
    if source.suffix == ".npy":
        scores, kind = read_npy(source)
        rows = _rows_of(known)
        if rows is not None:
            alone, taken = fit_rows(scores, rows, str(source))
            told = (*(f"{kind}: {note}" for note in taken), f"{kind}: no ids; {_told(rows)}")
            return SavedScores(alone, rows.owner, notes=told, path=str(source))
        alone, each, taken = assume_rows(scores, str(source))
        assumed = f"caption j is taken to belong to image j // {each}"
        notes = (*(f"{kind}: {note}" for note in taken), f"{kind}: no ids; {assumed}")
        owner = np.arange(scores.shape[1]) // each
        return SavedScores(alone, owner, notes=notes, path=str(source), assumed=assumed)
    rounded = source.suffix in (".txt", ".csv", ".tsv")
    why = "a text dump is rounded, and rounding makes ties: " if rounded else ""
    raise ScoreError(
        f"'{source}': {why}score matrices are read from .safetensors (written by --save-scores) or .npy. "
        "Save the matrix at full precision with numpy.save."
    )


def captions_of(source: str | Path | SavedScores) -> int:
    """Columns of a score matrix.

    Raises:
        ScoreError: as `load_scores`.
    """
    if isinstance(source, SavedScores):
        return int(source.scores.shape[1])
    path = Path(source)
    return int((read_npy(path)[0] if path.suffix == ".npy" else load_scores(path).scores).shape[1])


def with_owner_of(saved: SavedScores, known: Known) -> SavedScores:
    """Scores whose image of each caption was assumed, with the one that is known; others are returned as they are.

    Where the matrix has every image several times, with rows exactly equal, one row an image is taken, and a note says
    so. What is known counts only where it is not assumed as well.

    Raises:
        ScoreError: the scores have other sizes than the images and captions known.
    """
    rows = _rows_of(known)
    if not saved.assumed or rows is None:
        return saved
    scores, taken = fit_rows(saved.scores, rows, saved.path)
    kept = tuple(note for note in saved.notes if not note.endswith(saved.assumed))
    notes = (*kept, *taken, f"no ids; {_told(rows)}")
    return replace(saved, scores=scores, owner=rows.owner, notes=notes, assumed="")


def share_owner(members: Sequence[SavedScores]) -> list[SavedScores]:
    """Scores of the same rows: those whose image of each caption was assumed get that of the first that knows it.

    Raises:
        ScoreError: as `with_owner_of`.
    """
    known = next((member for member in members if not member.assumed), None)
    return [with_owner_of(member, known) for member in members]


def load_together(sources: Sequence[str | Path | SavedScores]) -> list[SavedScores]:
    """Read scores of the same rows, and let those that know the image of each caption tell the others.

    Raises:
        ScoreError: as `load_scores`.
    """

    def read(source: str | Path | SavedScores, known: Known = None) -> SavedScores:
        return with_owner_of(source, known) if isinstance(source, SavedScores) else load_scores(source, known)

    first = [k for k, one in enumerate(sources) if isinstance(one, SavedScores) or Path(one).suffix != ".npy"]
    telling = {k: read(sources[k]) for k in first}
    known = next((one for one in telling.values() if not one.assumed), None)
    return [read(telling.get(k, source), known) for k, source in enumerate(sources)]


def _rows_of(known: Known) -> KnownRows | None:
    """Images and captions that are known; None where nothing is."""
    if known is None or (isinstance(known, SavedScores) and known.assumed):
        return None
    if isinstance(known, Split):
        return KnownRows(np.asarray(known.owner), known.n_images, f"{known.dataset}/{known.name}")
    if isinstance(known, SavedScores):
        return KnownRows(known.owner, int(known.scores.shape[0]), f"'{known.path}'")
    return KnownRows(known, int(known.max(initial=-1)) + 1, "the owner given")


def _told(rows: KnownRows) -> str:
    return f"the image of each caption is that of {rows.name}"


def _load_ours(source: Path) -> SavedScores:
    """Read a file that ``save_scores`` wrote, and check its hash."""
    try:
        with source.open("rb"), safe_open(source, framework="numpy") as file:  # the first says whether it may be read
            header: dict[str, str] = file.metadata() or {}
            if header.get("format") != FORMAT:
                found = header.get("format", "a safetensors file of another kind")
                raise ScoreError(f"'{source}' is no score file: found {found}, expected {FORMAT}.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a dictionary)
        ids: list[str] | None = json.loads(header["image_ids"])
        owner, digests = tensors["owner"], tensors.get("caption_digests")
        intact = data_hash(ids, digests, owner) == header["data_hash"]
        saved = SavedScores(
            scores=tensors["scores"],
            owner=owner,
            image_ids=None if ids is None else tuple(ids),
            caption_digests=digests,
            provenance=Provenance(**json.loads(header["provenance"])),
            notes=tuple(json.loads(header["notes"])),
            path=str(source),
            warnings=tuple(json.loads(header.get("warnings", "[]"))),  # older files have none
            assumed=header.get("assumed", ""),  # likewise
        )
    except PermissionError as error:
        raise ScoreError(f"'{source}' can not be read: {error.strerror}.") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ScoreError(f"'{source}' is truncated or damaged: {error}. Save the scores again.") from None
    if not intact:
        raise ScoreError(f"'{source}' is damaged: its ids do not fit the hash written with them. Save it again.")
    return saved
