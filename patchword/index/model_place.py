"""Where the model of an index is now: a place that is named once is remembered when the old one has it no more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from patchword.index.writer import Writer
from patchword.store.manifest import ModelStamp, write_manifest

if TYPE_CHECKING:
    from patchword.store.model_hash import ModelGiven


def follow_model(writer: Writer, given: ModelGiven) -> str | None:
    """Note in the manifest where the model is, when it is named elsewhere and its old place does not hold it any more.

    A second copy of a model that is still in its place is used, and not noted: it may be there for a moment only.

    Args:
        writer: of the index.
        given: what the user named; a name that is no folder is left to whoever loads the model.

    Returns:
        The new place; None where all stays.

    Raises:
        CheckpointError: the folder that was named holds another model, or none.
    """
    if given is None or (isinstance(given, str | Path) and not Path(given).is_dir()):
        return None
    from patchword.checkpoint import find_checkpoint  # with it comes torch
    from patchword.store.model_hash import hash_checkpoint, open_model, stamps

    before = writer.manifest.model
    try:
        if stamps(Path(before.path)) == before.files:
            return None
    except OSError:
        pass
    found = find_checkpoint(Path(given)) if isinstance(given, str | Path) else given.path
    if found is None:
        return None
    folder = found.resolve()
    if hash_checkpoint(folder) != before.hash:
        open_model(writer.manifest, given)  # what is loaded decides
    now = before.model_copy(update={"path": str(folder), "label": _label(before, folder), "files": stamps(folder)})
    writer.manifest = writer.manifest.model_copy(update={"model": now})
    write_manifest(writer.folder, writer.manifest)
    return None if now.path == before.path else now.path


def _label(before: ModelStamp, folder: Path) -> str:
    """The label with the new folder, where it named the old one and not a name on the hub."""
    name, mark, place = before.label.removesuffix(")").rpartition(" (")
    old = Path(place).parts
    return f"{name} ({folder})" if mark and Path(before.path).parts[-len(old) :] == old else before.label
