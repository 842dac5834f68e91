"""Real annotation files must parse with the counts that are known for them."""

import json
from pathlib import Path

import numpy as np
import pytest

from patchword.data.doctor import check_data
from patchword.data.open import open_split, splits_of
from patchword.data.pictures import PictureFiles, VitTransform
from patchword.data.precomp import group_rows
from patchword.data.text_files import canonical_id, read_captions, read_json, read_lines


@pytest.mark.parametrize(
    ("folder", "layout", "split", "images", "captions"),
    [
        ("f30k", None, "dev", 1_014, 5_070),
        ("f30k", None, "test", 1_000, 5_000),
        ("coco", None, "dev", 1_000, 5_000),
        ("coco", None, "testall", 5_000, 25_000),
        ("coco", "karpathy", "val", 5_000, 25_010),
        ("coco", "karpathy", "test", 5_000, 25_010),
        ("coco_mini", None, "train2017", 50, 250),
        ("coco_mini", None, "val2017", 51, 255),
        ("flickr8k", None, "train", 6_000, 30_000),
        ("flickr8k", None, "dev", 1_000, 5_000),
        ("flickr8k", None, "test", 1_000, 5_000),
        ("flickr8k_regions", None, "train", 6_000, 30_000),
        ("flickr8k_regions", None, "dev", 1_000, 5_000),
        ("flickr8k_regions", None, "test", 1_000, 5_000),
        ("real_images", None, "train", 650, 3_250),
        ("real_images", None, "dev", 200, 1_000),
        ("real_images", None, "test", 1_051, 5_255),
    ],
)
def test_counts(shared: Path, folder: str, layout: str | None, split: str, images: int, captions: int) -> None:
    read = open_split(shared / "data" / folder, split, layout=layout)
    assert (read.n_images, read.n_captions) == (images, captions)


def test_first_five_of_six_coco_captions(shared: Path) -> None:
    full = open_split(shared / "data" / "coco", "test", layout="karpathy")
    assert full.captions_per_image() == {5: 4_990, 6: 10}
    five = open_split(shared / "data" / "coco", "test", layout="karpathy", captions_per_image=5)
    assert five.captions_per_image() == {5: 5_000}
    scan = open_split(shared / "data" / "coco", "testall")
    assert five.image_ids == scan.image_ids
    assert np.array_equal(five.owner, scan.owner)

    def letters(text: str) -> str:
        return "".join(letter for letter in text.lower() if letter.isalnum())

    equal = sum(letters(a) == letters(b) for a, b in zip(five.captions, scan.captions, strict=True))
    assert equal > 24_800


def test_flickr30k_train_captions_group_by_the_ids(shared: Path) -> None:
    captions = read_captions(shared / "data" / "f30k" / "train_caps_multi30k.txt.gz")
    ids = read_lines(shared / "data" / "f30k" / "train_ids.txt")
    found = group_rows(ids, len(captions), None, None, "f30k train")
    assert (len(captions), len(found.image_ids)) == (145_000, 29_000)


def test_flickr30k_mapping_is_complete(shared: Path) -> None:
    mapping = read_json(shared / "data" / "f30k" / "id_mapping.json")
    assert isinstance(mapping, dict)
    assert len(mapping) == len(set(mapping.values())) == 31_014
    for split in ("dev", "test"):
        assert set(open_split(shared / "data" / "f30k", split).image_ids) <= set(mapping)


def test_all_flickr8k_tokens(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "Flickr8k.token.txt").write_bytes((shared / "data" / "flickr8k" / "Flickr8k.token.txt").read_bytes())
    everything = open_split(tmp_path, "all")
    assert (everything.n_images, everything.n_captions) == (8_092, 40_460)
    assert "2258277193_586949ec62.jpg.1" in everything.image_ids


def test_flickr8k_regions_have_the_official_captions(shared: Path) -> None:
    for split in ("train", "dev", "test"):
        official = open_split(shared / "data" / "flickr8k", split)
        regions = open_split(shared / "data" / "flickr8k_regions", split)
        of_image = {image: k for k, image in enumerate(official.image_ids)}
        assert set(regions.image_ids) == set(of_image)
        for k in (0, 7, regions.n_images - 1):
            texts = [official.captions[j] for j in official.captions_of(of_image[regions.image_ids[k]])]
            assert [" ".join(text.split()) for text in texts] == [regions.captions[j] for j in regions.captions_of(k)]


def test_official_flickr8k_test_split_of_the_photographs(shared: Path) -> None:
    photographs = open_split(shared / "data" / "real_images", "test", name="flickr8k")
    official = open_split(shared / "data" / "flickr8k", "test")
    names = {canonical_id(image.removeprefix("flickr8k:")) for image in photographs.image_ids}
    assert names == {canonical_id(image) for image in official.image_ids}


def test_photographs_decode(shared: Path) -> None:
    split = open_split(shared / "data" / "real_images", "dev", limit=8, skip_broken=True)
    assert isinstance(split.images, PictureFiles)
    batch = split.images.with_transform(VitTransform(32)).read(range(8))
    assert batch.values.shape == (8, 3, 32, 32)


@pytest.mark.parametrize("folder", ["f30k", "coco", "coco_mini", "flickr8k", "flickr8k_regions"])
def test_doctor_lists_annotations_and_calls_them_unusable(shared: Path, folder: str) -> None:
    report = check_data(shared / "data" / folder)
    assert not report.usable
    assert [f.what for f in report.findings if f.level == "error"] == ["images"]
    assert set(splits_of(shared / "data" / folder)) <= {f.what for f in report.findings}


def test_doctor_finds_the_photographs_usable(shared: Path) -> None:
    report = check_data(shared / "data" / "real_images")
    assert report.usable
    assert json.loads(report.to_json())["layout"] == "pairs_file"


@pytest.mark.parametrize(("folder", "name", "words"), [("f30k", "f30k", 8_481), ("coco", "coco", 11_353)])
def test_doctor_reads_the_vocabulary(shared: Path, folder: str, name: str, words: int) -> None:
    report = check_data(shared / "data" / folder, name=name)
    assert any(f"{words:,} words;" in finding.found for finding in report.findings)
