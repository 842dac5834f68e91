"""The manifest on the disk: its exact form, and what is said about a damaged one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from patchword.errors import DataError
from patchword.shortlist.saved import Saved, name_newest, read_saved
from patchword.store.layout import IndexFolder
from patchword.store.manifest import Pooling, read_manifest, write_manifest

POOLED: dict[str, Any] = {
    "kind": "fde",
    "width": 2048,
    "source": 8,
    "seed": 0,
    "settings": {"bits": 4, "repetitions": 8, "inner": 16, "width": 2048},
}
# As the first release wrote it, key by key.
MANIFEST: dict[str, Any] = {
    "format": "patchword-index",
    "version": 1,
    "patchword": "0.1.0",
    "created": "2025-06-01T12:00:00",
    "model": {
        "path": "/models/chan",
        "label": "chan",
        "method": "chan",
        "hash": "00ff",
        "files": {"config.yaml": [120, 1748772000000000000]},
        "reads": "regions",
        "interaction": None,
        "content": "0a1b",
    },
    "width": 8,
    "set_size": 36,
    "dtype": "float16",
    "pooled": POOLED,
    "backend": {"kind": "faiss", "options": {"nprobe": 4}},
    "features": {"root": "/data/f30k", "name": None, "splits": ["test"], "names": None, "extras": []},
    "shard_mb": 256.0,
}
SAVED: dict[str, Any] = {
    "folder": "image-000000000003-17a",
    "generation": 3,
    "backend": "faiss",
    "options": {"nprobe": 4},
    "pooled": POOLED,
    "count": 1000,
}


@pytest.fixture
def place(tmp_path: Path) -> IndexFolder:
    found = IndexFolder(tmp_path)
    found.shards.mkdir()
    found.catalog.touch()
    found.manifest.write_text(json.dumps(MANIFEST, indent=2) + "\n", encoding="utf-8")
    return found


def test_what_is_read_is_written_again_letter_by_letter(place: IndexFolder) -> None:
    text = place.manifest.read_text(encoding="utf-8")
    manifest = read_manifest(place)
    assert manifest.pooled == Pooling(kind="fde", width=2048, source=8, settings=POOLED["settings"])
    write_manifest(place, manifest)
    assert place.manifest.read_text(encoding="utf-8") == text


def test_an_older_manifest_knows_no_content(place: IndexFolder) -> None:
    model = {key: value for key, value in MANIFEST["model"].items() if key != "content"}
    place.manifest.write_text(json.dumps({**MANIFEST, "model": model}), encoding="utf-8")
    assert read_manifest(place).model.content is None


def test_a_saved_shortlist_is_written_again_letter_by_letter(place: IndexFolder) -> None:
    (place.shortlist / SAVED["folder"]).mkdir(parents=True)
    newest = place.shortlist / "image.json"
    newest.write_text(json.dumps(SAVED, indent=2) + "\n", encoding="utf-8")
    saved = read_saved(place, "image")
    assert saved == Saved(**SAVED)
    assert saved.suits(read_manifest(place))
    name_newest(place, "image", saved)
    assert newest.read_text(encoding="utf-8") == json.dumps(SAVED, indent=2) + "\n"


@pytest.mark.parametrize("changed", [{"kind": "exact"}, {"options": {}}])
def test_a_shortlist_of_another_backend_does_not_suit(place: IndexFolder, changed: dict[str, Any]) -> None:
    manifest = read_manifest(place)
    other = manifest.model_copy(update={"backend": manifest.backend.model_copy(update=changed)})
    assert not Saved(**SAVED).suits(other)


@pytest.mark.parametrize(
    ("pooled", "key"),
    [
        ({"kind": "mean"}, "pooled.width"),
        (POOLED | {"kind": "sorcery"}, "pooled.kind"),
        (POOLED | {"settings": 4}, "pooled.settings"),
        (None, "pooled"),
    ],
)
def test_what_does_not_say_how_vectors_are_made_is_refused(place: IndexFolder, pooled: Any, key: str) -> None:
    place.manifest.write_text(json.dumps(MANIFEST | {"pooled": pooled}), encoding="utf-8")
    with pytest.raises(DataError, match=f"`{key}`: .* Restore the file from a copy"):
        read_manifest(place)
