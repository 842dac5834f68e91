import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchword.data.doctor import check_data
from patchword.data.features import RegionFeatures
from patchword.data.open import LAYOUTS, find_places, first_captions, guess_name, open_split, splits_of
from patchword.data.pictures import PictureFiles
from patchword.data.split_names import splits_meant
from patchword.data.table import Split
from patchword.errors import ConfigError, DataError


def scenes(root: Path, n: int = 3) -> Path:
    """Features, captions and pictures as the generated data set has them."""
    folder = root / "scenes_precomp"
    folder.mkdir(parents=True)
    (root / "images").mkdir()
    ids = [f"{k:05d}" for k in range(n)]
    for name in ids:
        Image.fromarray(np.full((6, 6, 3), 9, np.uint8)).save(root / "images" / f"{name}.png")
    for split in ("train", "dev"):
        (folder / f"{split}_ids.txt").write_text("\n".join(ids), encoding="utf-8")
        (folder / f"{split}_caps.txt").write_text("".join(f"cap {k}\n" for k in range(5 * n)), encoding="utf-8")
        np.save(folder / f"{split}_ims.npy", np.random.default_rng(0).random((n, 4, 8)).astype(np.float32))
    return root


def test_every_layout_offers_what_the_table_says() -> None:
    for layout in LAYOUTS:
        reader = layout.reader()
        assert all(callable(getattr(reader, verb)) for verb in ("candidates", "find", "splits", "read"))
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


def test_features_come_with_their_pictures(tmp_path: Path) -> None:
    root = scenes(tmp_path)
    assert find_places(root)[0].layout.name == "precomp"
    assert splits_of(root) == ["train", "dev"]
    split = open_split(root, "train")
    assert split.dataset == "scenes"
    assert isinstance(split.images, RegionFeatures)
    assert split.files == [root / "images" / f"{k:05d}.png" for k in range(3)]
    seen = open_split(root, "train", images="pictures")
    assert isinstance(seen.images, PictureFiles)
    assert seen.images.files == seen.files


def test_limit_cuts_everything_alike(tmp_path: Path) -> None:
    split = open_split(scenes(tmp_path), "val", limit=2, captions_per_image=3)
    assert (split.name, split.n_images, split.n_captions) == ("dev", 2, 6)
    assert split.captions == ["cap 0", "cap 1", "cap 2", "cap 5", "cap 6", "cap 7"]
    assert split.files is not None
    assert len(split.files) == len(split.require_images()) == 2
    assert [note for note in split.notes if "limited" in note or "left out" in note] == [
        "first 3 captions of each image: 6 left out",
        "limited to the first 2 of 3 images",
    ]


@given(owner=st.lists(st.integers(0, 5), min_size=1, max_size=40), per_image=st.integers(1, 6))
def test_first_captions_against_a_plain_loop(owner: list[int], per_image: int) -> None:
    split = Split("x", "y", [str(k) for k in range(6)], [f"c{j}" for j in range(len(owner))], np.asarray(owner))
    seen: dict[int, int] = {}
    expected = []
    for j, image in enumerate(owner):
        seen[image] = seen.get(image, 0) + 1
        if seen[image] <= per_image:
            expected.append(f"c{j}")
    cut = first_captions(split, per_image)
    assert cut.captions == expected
    assert cut.owner.tolist() == [owner[int(text[1:])] for text in expected]
    assert first_captions(split, None) is split


def test_several_layouts_are_told_and_can_be_chosen(tmp_path: Path) -> None:
    root = scenes(tmp_path)
    (root / "captions.jsonl").write_text(json.dumps({"image": "images/00000.png", "caption": "x"}) + "\n")
    split = open_split(root, "train")
    assert split.layout.startswith("precomp")
    assert any("layout precomp was chosen; these fit too: pairs_file" in note for note in split.notes)
    assert open_split(root, "all", layout="pairs_file").n_images == 1
    with pytest.raises(ConfigError, match=r"no layout 'scan'\. Layouts: raw_tree, precomp"):
        open_split(root, "train", layout="scan")
    with pytest.raises(DataError, match=r"no data set of layout karpathy: dataset_<name>\.json"):
        open_split(root, "train", layout="karpathy")


def test_unknown_folder_says_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty: no known data set called 'f30k'"):
        open_split(tmp_path, "train", name="f30k")
    root = tmp_path / "mine"
    root.mkdir()
    for k in range(4):
        (root / f"{k}.jpg").touch()
    (root / "my_captions.csv").write_text("image,caption\n0.jpg,a dog\n")
    with pytest.raises(DataError) as caught:
        open_split(root, "train")
    message = str(caught.value).replace(str(root), "mine")
    assert message.startswith("'mine' holds 4 pictures and my_captions.csv, but no known data set. ")
    assert "rename it to captions.csv" in message
    assert "patchword index build mine" in message
    assert message.endswith("patchword doctor data mine")
    assert len(message) < 300
    with pytest.raises(DataError, match="Expected a folder, or a file of captions"):
        open_split(root / "0.jpg", "train")
    (root / "my_captions.csv").rename(root / "captions.csv")
    assert open_split(root, "all").captions == ["a dog"]
    assert find_places(tmp_path) == []
    with pytest.raises(DataError, match="is missing"):
        open_split(tmp_path / "nowhere", "train")


def test_missing_split_and_missing_images(tmp_path: Path) -> None:
    root = scenes(tmp_path)
    with pytest.raises(DataError, match=r"no split 'test'\. Splits found: train, dev"):
        open_split(root, "test")
    (root / "scenes_precomp" / "val_caps.txt").write_text("x\n" * 15)
    assert open_split(root, "dev").name == "dev"
    for split in ("train", "dev"):
        (root / "scenes_precomp" / f"{split}_ims.npy").unlink()
    with pytest.raises(DataError, match="no features were found"):
        open_split(root, "train", images="features")
    assert isinstance(open_split(root, "train").images, PictureFiles)
    for path in (root / "images").iterdir():
        path.unlink()
    assert open_split(root, "train").images is None
    with pytest.raises(DataError, match="no pictures found"):
        open_split(root, "train", images="pictures")


@pytest.mark.parametrize(("train", "dev"), [("training", "valid"), ("Train", "Validation"), ("TRAINING", "VAL")])
def test_splits_are_found_under_other_names(tmp_path: Path, train: str, dev: str) -> None:
    precomp = scenes(tmp_path / "a") / "scenes_precomp"
    files, table, folders = (tmp_path / name for name in ("b", "c", "d"))
    files.mkdir()
    table.mkdir()
    lines = ["image,caption,split"]
    for role, name in (("train", train), ("dev", dev)):
        for path in list(precomp.glob(f"{role}_*")):
            path.rename(path.with_name(path.name.replace(role, name, 1)))
        (files / f"{name}.csv").write_text(f"image,caption\n{name}.jpg,{role}\n")
        lines.append(f"{name}.jpg,{role},{name}")
        (folders / name).mkdir(parents=True)
        (folders / name / "0.jpg").touch()
        (folders / name / "0.txt").write_text(f"{role}\n")
    (table / "captions.csv").write_text("\n".join(lines))
    assert open_split(tmp_path / "a", "dev").name == dev
    for root in (files, table, folders):
        assert splits_of(root) == [train, dev]
        for role, name in (("train", train), ("dev", dev)):
            split = open_split(root, role)
            assert (split.name, split.captions) == (name, [role])
            assert f"split '{name}' was read for '{role}'" in split.notes
    with pytest.raises(DataError, match="no split 'test'"):
        open_split(table, "test")


def test_the_exact_name_wins_and_two_others_are_unclear() -> None:
    assert splits_meant("dev", ["validation", "dev", "Dev"]) == ["dev"]
    assert splits_meant("dev", ["Dev", "val"]) == ["Dev"]
    assert splits_meant("dev", ["val", "valid"]) == ["val", "valid"]
    assert splits_meant("test", ["testall"]) == splits_meant("", ["train"]) == []
    assert splits_meant("train", ["train2014", "val2014"]) == ["train2014"]


@pytest.mark.parametrize(
    "argument", [{"images": "regions"}, {"limit": 0}, {"captions_per_image": -1}, {"columns": {"a": "b"}}]
)
def test_bad_arguments_are_refused(tmp_path: Path, argument: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        open_split(scenes(tmp_path), "train", **argument)  # type: ignore[arg-type]


def test_broken_pictures_are_skipped_and_listed(tmp_path: Path) -> None:
    root = scenes(tmp_path, 4)
    cut = root / "images" / "00001.png"
    cut.write_bytes(cut.read_bytes()[:40])
    (root / "images" / "00003.png").unlink()
    for path in (root / "scenes_precomp").glob("*_ims.npy"):
        path.unlink()
    with pytest.raises(DataError, match="1 of 4 pictures are missing"):
        open_split(root, "train")
    split = open_split(root, "train", skip_broken=True)
    assert split.image_ids == ["00000", "00002"]
    assert split.n_captions == 10
    note = next(note for note in split.notes if "broken pictures" in note)
    assert note.startswith("2 broken pictures left out: 00001: ")
    assert "00003.png" in note
    for path in (root / "images").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="none of 4 pictures can be used"):
        open_split(root, "train", skip_broken=True)


def test_name_comes_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mscoco" / "annotations").mkdir(parents=True)
    (tmp_path / "mscoco" / "annotations" / "a.json").write_text("{}")
    assert guess_name(tmp_path / "mscoco" / "annotations" / "a.json") == "coco"
    assert guess_name(tmp_path / "mscoco" / "annotations") == "coco"
    assert guess_name(Path("/")) == "data"


def test_a_name_that_the_folder_does_not_have_is_answered_with_the_one_it_has(tmp_path: Path) -> None:
    home = tmp_path / "mydata" / "mydata_precomp"
    home.mkdir(parents=True)
    np.save(home / "train_ims.npy", np.zeros((1, 2, 3), np.float32))
    (home / "train_caps.txt").write_text("a dog\n" * 5)
    with pytest.raises(DataError) as caught:
        open_split(home.parent, "train", name="flickr8k")
    message = str(caught.value)
    assert "no known data set called 'flickr8k', but one called 'mydata'" in message
    assert "from the recipe (`data.name`)" in message
    assert "--data.name mydata to train, --name mydata for" in message
    assert message.endswith(f"patchword doctor data {home.parent} --name flickr8k")
    assert open_split(home.parent, "train", name="mydata").n_captions == 5
    assert "but one called 'mydata'" in "\n".join(check_data(home.parent, name="flickr8k").lines())
