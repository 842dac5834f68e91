import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchword.data import raw_tree
from patchword.data.open import open_split, splits_of
from patchword.data.pictures import PictureFiles, VitTransform
from patchword.errors import DataError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), 100, np.uint8)).save(path)


def write_text(folder: Path, ids: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    repeated = [image for image in ids for _ in range(5)]
    (folder / "test_ids.txt").write_text("\n".join(repeated) + "\n", encoding="utf-8")
    (folder / "test_caps.txt").write_text("".join(f"a dog {k}\n" for k in range(len(repeated))), encoding="utf-8")


def test_flickr_tree_with_mapping(tmp_path: Path) -> None:
    write_text(tmp_path / "f30k", ["3", "8"])
    (tmp_path / "f30k" / "id_mapping.json").write_text(json.dumps({"3": "x y.jpg", "8": "z.jpg"}), encoding="utf-8")
    picture(tmp_path / "f30k" / "flickr30k-images" / "x y.jpg")
    picture(tmp_path / "f30k" / "flickr30k-images" / "z.jpg")
    split = open_split(tmp_path, "test", name="f30k")
    assert split.layout.startswith("raw_tree")
    assert split.image_ids == ["3", "8"]
    assert split.files is not None
    assert [path.name for path in split.files] == ["x y.jpg", "z.jpg"]
    assert isinstance(split.images, PictureFiles)
    assert split.images.with_transform(VitTransform(4)).read([1]).values.shape == (1, 3, 4, 4)


def test_coco_tree_without_mapping(tmp_path: Path) -> None:
    write_text(tmp_path / "coco", ["391895", "42"])
    picture(tmp_path / "coco" / "images" / "val2014" / "COCO_val2014_000000391895.jpg")
    picture(tmp_path / "coco" / "images" / "val2014" / "COCO_val2014_000000000042.jpg")
    split = open_split(tmp_path / "coco", "test")
    assert (split.dataset, split.n_images, split.n_captions) == ("coco", 2, 10)
    assert split.files is not None
    assert split.files[1].name == "COCO_val2014_000000000042.jpg"


def test_vse_tree_with_features_keeps_its_pictures(tmp_path: Path) -> None:
    write_text(tmp_path / "coco" / "precomp", ["391895", "42"])
    np.save(tmp_path / "coco" / "precomp" / "test_ims.npy", np.ones((2, 3, 4), np.float32))
    names = {"391895": "val2014/COCO_val2014_000000391895.jpg", "42": "val2014/COCO_val2014_000000000042.jpg"}
    (tmp_path / "coco" / "id_mapping.json").write_text(json.dumps(names), encoding="utf-8")
    for name in names.values():
        picture(tmp_path / "coco" / "images" / name)
    split = open_split(tmp_path / "coco", "test")
    assert split.layout.startswith("precomp")
    assert not isinstance(split.images, PictureFiles)
    assert split.files is not None
    assert isinstance(open_split(tmp_path / "coco", "test", images="pictures").images, PictureFiles)

    split.files[0].unlink()
    split = open_split(tmp_path / "coco", "test")
    assert split.files is None
    assert any("1 of 2 pictures are missing" in note for note in split.notes)
    with pytest.raises(DataError, match="1 of 2 pictures are missing"):
        open_split(tmp_path / "coco", "test", images="pictures")


def test_mapping_of_other_data_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path, ["3", "8"])
    (tmp_path / "id_mapping.json").write_text('{"3": "a.jpg"}', encoding="utf-8")
    with pytest.raises(DataError, match="no entry for 1 of 2 images"):
        open_split(tmp_path, "test")


def test_annotations_alone_are_readable(tmp_path: Path) -> None:
    write_text(tmp_path, ["3", "8"])
    assert raw_tree.find(tmp_path) is None
    (tmp_path / "id_mapping.json").write_text('{"3": "a.jpg", "8": "b.jpg"}', encoding="utf-8")
    assert raw_tree.find(tmp_path) == tmp_path
    assert splits_of(tmp_path) == ["test"]
    split = open_split(tmp_path, "test")
    assert split.images is None
    assert any("no pictures found" in note for note in split.notes)
    with pytest.raises(DataError, match="neither features nor pictures"):
        split.require_images()
