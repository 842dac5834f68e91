"""Scenes: what is written, that it is true, and that twins differ in one thing."""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchword.data import scenes
from patchword.data.precomp import read_precomp
from patchword.data.scenes import PRECOMP, members, write_scenes
from patchword.data.scenes_draw import CANVAS, place
from patchword.data.scenes_family import FEWEST_TELLING, Member, draw_family, view_member
from patchword.data.scenes_language import RELATION_OF, VALUE_OF, is_true
from patchword.data.scenes_regions import FEWEST_REGIONS, REGION_WIDTH, region_vectors
from patchword.data.scenes_world import ATTRIBUTES, OPPOSITE, differences, may_hold, relation_between
from patchword.errors import ConfigError, DataError

SIZES = {"train": 12, "dev": 5, "test": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, written once."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "set", **SIZES)


@pytest.fixture(scope="module")
def families() -> list[list[Member]]:
    """Sixty families of the training split."""
    return [draw_family(3, "train", family) for family in range(60)]


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> hash of the bytes, for every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(path: Path) -> list[str]:
    """The lines of a text file."""
    return path.read_text(encoding="utf-8").splitlines()


def test_same_arguments_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_scenes(tmp_path / "again", **SIZES)
    assert digests(again) == digests(folder)
    other = write_scenes(tmp_path / "other", **SIZES, seed=1)
    assert digests(other)[f"{PRECOMP}/test_caps.txt"] != digests(folder)[f"{PRECOMP}/test_caps.txt"]


def test_an_image_does_not_depend_on_the_sizes(folder: Path, tmp_path: Path) -> None:
    smaller = write_scenes(tmp_path / "smaller", train=3, dev=1, test=7)
    for split, size in {"train": 3, "dev": 1, "test": 7}.items():
        for name in ("ims.npy", "boxes.npy"):
            few, many = (np.load(place / PRECOMP / f"{split}_{name}") for place in (smaller, folder))
            np.testing.assert_array_equal(few, many[:size])
        for name, per_image in {"caps.txt": 5, "ids.txt": 1, "negatives.jsonl": 5}.items():
            few_lines, many_lines = (lines(place / PRECOMP / f"{split}_{name}") for place in (smaller, folder))
            assert few_lines == many_lines[: size * per_image]
    small, large = digests(smaller), digests(folder)
    assert all(large[name] == digest for name, digest in small.items() if name.startswith("images/"))


@pytest.mark.parametrize(("split", "size"), SIZES.items())
def test_layout_is_read_as_precomp(folder: Path, split: str, size: int) -> None:
    table = read_precomp(folder / PRECOMP, split, dataset="scenes")
    assert (table.n_images, table.n_captions) == (size, 5 * size)
    assert table.captions_per_image() == {5: size}
    images = table.require_images().read([0, size - 1])
    assert images.values.shape == (2, 36, REGION_WIDTH)
    assert float(images.values.min()) == 0.0
    assert table.boxes is not None
    assert table.boxes.shape == (size, 36, 4)
    assert (table.boxes[..., :2] < table.boxes[..., 2:]).all()
    assert 0 <= table.boxes.min() < table.boxes.max() <= 1


def test_listing_names_pictures_captions_and_things(folder: Path) -> None:
    records = [json.loads(line) for line in lines(folder / "captions.jsonl")]
    assert [record["split"] for record in records] == ["train"] * 12 + ["dev"] * 5 + ["test"] * 8
    assert len({record["id"] for record in records}) == 25
    for record in records:
        with Image.open(folder / record["image"]) as picture:
            assert (picture.size, picture.mode) == ((record["width"], record["height"]), "RGB")
        assert 3 <= len(record["things"]) <= 6
        assert all(0 <= side <= 1 for thing in record["things"] for side in thing["box"])
    texts = [caption for record in records for caption in record["captions"] if record["split"] == "test"]
    assert texts == lines(folder / PRECOMP / "test_caps.txt")


def test_captions_are_tokenised_like_scan_files(folder: Path) -> None:
    for caption in lines(folder / PRECOMP / "train_caps.txt"):
        words = caption.split(" ")
        assert words[-1] == "."
        assert all(word in (".", ",") or word.isalpha() for word in words)
        assert caption[0].isupper()
        assert caption[1:].islower()


def test_vocabulary_is_small(families: list[list[Member]]) -> None:
    captions = [caption.text.lower() for family in families for member in family for caption in member.captions]
    assert 60 <= len({word for caption in captions for word in caption.split()}) <= 90


def test_region_vectors_are_a_function_of_pixels_boxes_and_seeded_noise(folder: Path) -> None:
    vectors, boxes = (np.load(folder / PRECOMP / f"dev_{name}.npy") for name in ("ims", "boxes"))
    for row, member in enumerate(islice(members(0, "dev"), SIZES["dev"])):
        with Image.open(folder / "images" / f"{member.image_id}.png") as file:
            picture = np.array(file)
        noise = np.random.default_rng((*member.seeds, 1))
        np.testing.assert_array_equal(region_vectors(picture, boxes[row], noise), vectors[row])
        picture[:] = 255 - picture
        noise = np.random.default_rng((*member.seeds, 1))
        assert not np.allclose(region_vectors(picture, boxes[row], noise), vectors[row], atol=0.5)


def test_every_thing_has_a_box_that_fits_it(families: list[list[Member]]) -> None:
    for family in families[:10]:
        for member in family:
            boxes = view_member(member, regions=FEWEST_REGIONS).boxes
            for spot in place(member.scene):
                thing = np.asarray(spot.box) / CANVAS
                assert np.abs(boxes - thing).max(axis=1).min() <= 1 / CANVAS + 1e-6


def test_twins_differ_in_exactly_one_attribute_or_relation(families: list[list[Member]]) -> None:
    kinds = set()
    for base, *twins in families:
        assert 1 <= len(twins) <= 3
        assert base.difference is None
        for twin in twins:
            found = differences(base.scene, twin.scene)
            assert len(found) == 1
            assert twin.difference is not None
            assert (found[0].kind, found[0].things, found[0].before, found[0].after) in (
                (twin.difference.kind, twin.difference.things, twin.difference.before, twin.difference.after),
            )
            assert (view_member(base, regions=36).picture != view_member(twin, regions=36).picture).any()
            kinds.add(found[0].kind)
    assert kinds == {"relation", *ATTRIBUTES}


def test_captions_are_true_of_their_image(families: list[list[Member]]) -> None:
    for family in families:
        for member in family:
            assert len({caption.text for caption in member.captions}) == 5
            for caption in member.captions:
                assert is_true(caption, member.scene)
                assert is_true(caption, member.scene, generous=True)


def test_two_captions_at_least_are_false_of_each_twin(families: list[list[Member]]) -> None:
    for family in families:
        for member in family:
            for other in family:
                told = sum(not is_true(caption, other.scene, generous=True) for caption in member.captions)
                assert other is member or told >= FEWEST_TELLING


def test_negatives_are_false_and_differ_in_one_place(families: list[list[Member]]) -> None:
    for family in families:
        for member in family:
            for caption, negative in zip(member.captions, member.negatives, strict=True):
                assert not is_true(negative.caption, member.scene, generous=True)
                pairs = list(zip(caption.clauses, negative.caption.clauses, strict=True))
                changed = [(a, b) for a, b in pairs if a != b]
                assert len(changed) == 1
                old, new = changed[0]
                if negative.kind == "relation":
                    assert (old.mentions, old.verb) == (new.mentions, new.verb)
                    assert [RELATION_OF[clause.phrase] for clause in (old, new)] == [negative.before, negative.after]
                else:
                    mentions = [(a, b) for a, b in zip(old.mentions, new.mentions, strict=True) if a != b]
                    assert len(mentions) == 1
                    words = [getattr(mention, negative.kind) for mention in mentions[0]]
                    assert [VALUE_OF[word][1] for word in words] == [negative.before, negative.after]


def test_negatives_file_follows_the_captions(folder: Path) -> None:
    records = [json.loads(line) for line in lines(folder / PRECOMP / "test_negatives.jsonl")]
    captions, ids = (lines(folder / PRECOMP / f"test_{name}.txt") for name in ("caps", "ids"))
    assert [record["caption"] for record in records] == captions
    assert [record["id"] for record in records] == [image_id for image_id in ids for _ in range(5)]
    for record in records:
        assert record["negative"].split() != record["caption"].split()
        assert record["differs"] in ("relation", *ATTRIBUTES)
        assert record["from"] != record["to"]


def test_relations_are_what_the_pixels_show(families: list[list[Member]]) -> None:
    for family in families:
        for scene in (member.scene for member in family):
            spots = place(scene)
            for i, a in enumerate(spots):
                assert min(a.box) >= 0
                assert max(a.box) <= CANVAS
                for j, b in enumerate(spots):
                    relation = relation_between(scene, i, j) if i != j else None
                    apart = abs(a.x - b.x) >= a.radius + b.radius or abs(a.y - b.y) >= a.radius + b.radius
                    if relation is not None:
                        assert relation_between(scene, j, i) == OPPOSITE[relation]
                        assert may_hold(scene, relation, i, j)
                        holds = {
                            "left of": apart and a.x < b.x,
                            "right of": apart and a.x > b.x,
                            "above": apart and a.y < b.y,
                            "below": apart and a.y > b.y,
                            "inside": abs(a.x - b.x) + a.radius <= b.radius,
                            "around": abs(a.x - b.x) + b.radius <= a.radius,
                        }
                        assert holds.get(relation, not apart)


def test_the_same_scenes_are_kept(folder: Path) -> None:
    before = (folder / "scenes.json").stat().st_mtime_ns
    assert write_scenes(folder, **SIZES) == folder
    assert write_scenes(folder, **SIZES, pictures=False) == folder  # what is there is more than what is asked for
    assert (folder / "scenes.json").stat().st_mtime_ns == before


def test_without_pictures_the_features_are_the_same(folder: Path, tmp_path: Path) -> None:
    bare = write_scenes(tmp_path / "bare", **SIZES, pictures=False)
    assert {path.name for path in bare.iterdir()} == {PRECOMP, "scenes.json"}
    all_files = digests(folder)
    assert all(all_files[name] == digest for name, digest in digests(bare).items() if name != "scenes.json")
    with pytest.raises(DataError, match=r"pictures False\. Expected .* pictures True"):
        write_scenes(bare, **SIZES)


def test_a_folder_with_anything_else_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds other scenes: version 1, seed 0, .* Expected version 1, seed 5, "):
        write_scenes(folder, **SIZES, seed=5)
    with pytest.raises(DataError, match="holds other scenes"):
        write_scenes(folder, train=13, dev=5, test=8)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match=r"foreign' holds other files and no scenes\. .* Choose another folder"):
        write_scenes(tmp_path / "foreign", **SIZES)
    with pytest.raises(DataError, match="is a file"):
        write_scenes(tmp_path / "foreign" / "letter.txt", **SIZES)
    assert (tmp_path / "foreign" / "letter.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert (write_scenes(tmp_path, train=1, dev=1, test=1, regions=12) / "scenes.json").is_file()
    assert np.load(tmp_path / PRECOMP / "dev_ims.npy").shape == (1, 12, REGION_WIDTH)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stop_at_the_tenth(member: Member, *, regions: int) -> object:
        seen.append(member.image_id)
        if len(seen) == 10:
            raise KeyboardInterrupt
        assert not (tmp_path / "set").exists()
        return view_member(member, regions=regions)

    monkeypatch.setattr(scenes, "view_member", stop_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "set", **SIZES)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert (write_scenes(tmp_path / "set", **SIZES) / "scenes.json").is_file()


def test_two_runs_at_once_agree(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish_second(member: Member, *, regions: int) -> object:
        if not (tmp_path / "set").exists():
            shutil.copytree(folder, tmp_path / "set")  # the other run is faster
        return view_member(member, regions=regions)

    monkeypatch.setattr(scenes, "view_member", finish_second)
    assert write_scenes(tmp_path / "set", **SIZES) == tmp_path / "set"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert digests(tmp_path / "set") == digests(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dev": 0}, "`dev` is 0"),
        ({"seed": -1}, "`seed` is -1"),
        ({"regions": 3}, "`regions` is 3. Expected 10"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_scenes(tmp_path / "set", **{**SIZES, **wrong})
    assert list(tmp_path.iterdir()) == []
