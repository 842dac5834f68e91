import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchword.data.doctor import DataReport, check_data, find_vocabulary
from patchword.data.doctor_checks import first_few
from patchword.data.doctor_expect import expected_counts
from patchword.data.open import LAYOUTS


def build(folder: Path, split: str = "train", images: int = 4, *, repeat: int = 1) -> Path:
    """A healthy precomp folder; ``repeat`` 5 stores ids and features once per caption."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"{split}{k}" for k in range(images)]
    rows = np.random.default_rng(images).random((images, 3, 8)).astype(np.float32)
    (folder / f"{split}_ids.txt").write_text("".join(f"{i}\n" for i in ids for _ in range(repeat)), encoding="utf-8")
    (folder / f"{split}_caps.txt").write_text(
        "".join(f"a dog number {k} of {split}\n" for k in range(5 * images)), encoding="utf-8"
    )
    np.save(folder / f"{split}_ims.npy", np.repeat(rows, repeat, axis=0))
    return folder


def levels(report: DataReport, text: str) -> list[str]:
    return [finding.level for finding in report.findings if text in f"{finding.what}: {finding.found}"]


def test_healthy_folder_is_usable(tmp_path: Path) -> None:
    build(tmp_path / "my data ü", "train")
    build(tmp_path / "my data ü", "dev", 3, repeat=5)
    said: list[str] = []
    report = check_data(tmp_path / "my data ü", progress=said.append)
    assert report.usable
    assert all(finding.level == "ok" for finding in report.findings)
    assert said == ["checking train", "checking dev"]
    printed = "\n".join(report.lines())
    for text in (
        "layout precomp",
        "train: 4 images, 20 captions",
        "captions per image x images: 5 x 4",
        "first id 'train0', last id 'train3'",
        "4 images x 3 regions x 8, float32: mean",
        "shape (15, 3, 8), float32",
        "usable: yes (0 errors, 0 warnings)",
    ):
        assert text in printed
    assert json.loads(report.to_json())["usable"] is True
    assert json.loads(report.to_json())["findings"][0]["level"] == "ok"


def test_nothing_and_nowhere_are_not_usable(tmp_path: Path) -> None:
    for root, text in ((tmp_path, "is empty: no known data set"), (tmp_path / "no", "is missing")):
        report = check_data(root)
        assert not report.usable
        assert levels(report, text) == ["error"]
        assert "patchword doctor" not in "\n".join(report.lines())
    said = "\n".join(check_data(tmp_path, name="f30k").lines())
    for text in (*(layout.looks_like for layout in LAYOUTS), "f30k_precomp", "dataset_flickr30k.json"):
        assert text in said
    build(tmp_path / "a_precomp")
    build(tmp_path / "b_precomp")
    assert levels(check_data(tmp_path), "several data sets") == ["error"]
    assert check_data(tmp_path, name="a").usable


def test_what_training_lacks_is_told(tmp_path: Path) -> None:
    build(tmp_path, "train")
    report = check_data(tmp_path)
    assert report.usable
    assert levels(report, "dev: missing") == ["warning"]
    assert report.lines()[-1].startswith("usable: for search and evaluation; not for training (no dev)")
    assert json.loads(report.to_json())["lacks_for_training"] == ["dev"]
    build(tmp_path, "Valid")
    assert check_data(tmp_path).lines()[-1] == "usable: yes (0 errors, 0 warnings)"
    build(tmp_path, "validation")
    report = check_data(tmp_path)
    assert levels(report, "dev: may be any of") == ["warning"]
    assert "--data.dev Valid" in "\n".join(report.lines())
    (tmp_path / "rows").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "rows" / "a.jpe", format="JPEG")
    (tmp_path / "rows" / "captions.csv").write_text("image,caption\na.jpe,a dog\n")
    report = check_data(tmp_path / "rows")
    assert report.usable
    assert "not for training (no train, no dev)" in report.lines()[-1]
    assert "or train on everything: --data.train all --train.select_on none" in "\n".join(report.lines())


def test_all_empty_and_literal_lines_are_counted(tmp_path: Path) -> None:
    build(tmp_path)
    lines = (tmp_path / "train_caps.txt").read_text().split("\n")
    for k in (1, 4, 5, 6, 7, 8):
        lines[k] = " "
    lines[9] = "b'a dog'"
    (tmp_path / "train_caps.txt").write_text("\n".join(lines))
    report = check_data(tmp_path)
    assert not report.usable
    assert levels(report, "6 empty lines: 2, 5, 6, 7, 8 ... (6 in all)") == ["error"]
    assert levels(report, "1 lines are Python bytes literals (b'...'): 10") == ["error"]


def test_bad_feature_rows_are_listed(tmp_path: Path) -> None:
    build(tmp_path, images=8)
    rows = np.load(tmp_path / "train_ims.npy")
    rows[2, 1, 1] = np.nan
    rows[5, 0, 0] = np.inf
    rows[6] = 0
    rows[7] *= -1
    np.save(tmp_path / "train_ims.npy", rows)
    report = check_data(tmp_path)
    assert levels(report, "2 rows with NaN or infinity: numbers 2, 5") == ["error"]
    assert levels(report, "1 row with zeros only: number 6") == ["warning"]
    assert levels(report, "negative values") == ["warning"]


def test_ragged_features_are_checked(tmp_path: Path) -> None:
    build(tmp_path, images=2)
    np.save(tmp_path / "train_ims.npy", np.asarray([[1.0], [np.nan], [2.0]]))
    np.save(tmp_path / "train_offsets.npy", np.asarray([0, 2, 3]))
    report = check_data(tmp_path)
    assert levels(report, "2 images x 1 to 2 regions x 1") == ["ok"]
    assert levels(report, "1 region row with NaN or infinity: number 1") == ["error"]


def test_truncated_features_name_both_sizes(tmp_path: Path) -> None:
    build(tmp_path)
    path = tmp_path / "train_ims.npy"
    path.write_bytes(path.read_bytes()[:-100])
    report = check_data(tmp_path)
    finding = next(finding for finding in report.findings if finding.level == "error")
    assert (finding.what, finding.found) == ("train_ims.npy", "412 bytes")
    assert finding.expected.startswith("512 bytes")
    build(tmp_path)
    path.write_bytes(path.read_bytes() + b"more")
    assert levels(check_data(tmp_path), "4 bytes after the data") == ["warning"]


@pytest.mark.parametrize("content", [[None] * 100, [{"a": list(range(99))}]], ids=["short", "long"])
def test_pickled_objects_are_not_called_truncated(tmp_path: Path, content: list[object]) -> None:
    build(tmp_path)
    np.save(tmp_path / "train_ims.npy", np.array(content, dtype=object), allow_pickle=True)
    report = check_data(tmp_path)
    assert not report.usable
    assert levels(report, "holds pickled Python objects, which are never loaded") == ["error"]
    assert "truncated" not in "\n".join(report.lines())


def test_splits_of_different_width_are_not_usable(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        build(tmp_path, split)
    np.save(tmp_path / "dev_ims.npy", np.load(tmp_path / "dev_ims.npy")[..., :5])
    report = check_data(tmp_path)
    assert not report.usable
    assert levels(report, "features: the splits differ in width: train 8, dev 5, test 8") == ["error"]


def test_counts_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    build(tmp_path, repeat=5)
    rows = np.load(tmp_path / "train_ims.npy")
    np.save(tmp_path / "train_ims.npy", rows[:-1])
    assert levels(check_data(tmp_path), "20 captions, 20 ids, 19 feature rows") == ["error"]
    rows[6] += 1
    np.save(tmp_path / "train_ims.npy", rows)
    assert levels(check_data(tmp_path), "rows of one image differ, at row 5") == ["error"]


def test_long_and_repeated_captions(tmp_path: Path) -> None:
    build(tmp_path)
    lines = (tmp_path / "train_caps.txt").read_text().split("\n")
    lines[3] = "word " * 600
    lines[5] = lines[6]
    (tmp_path / "train_caps.txt").write_text("\n".join(lines))
    report = check_data(tmp_path)
    assert report.usable
    assert levels(report, "1 captions have more than 500 words: number 4") == ["warning"]
    assert levels(report, "1 captions repeat another one") == ["ok"]


def test_known_data_sets_are_compared(tmp_path: Path) -> None:
    build(tmp_path / "f30k_precomp", "dev")
    report = check_data(tmp_path, name="f30k")
    assert not report.usable
    assert levels(report, "train: missing") == levels(report, "test: missing") == ["warning"]
    assert levels(report, "dev: short: 4 images, 20 captions") == ["error"]
    assert "it is normally in SCAN's data archive" in "\n".join(report.lines())
    guessed = check_data(tmp_path / "f30k_precomp")
    assert guessed.name == "f30k"
    assert guessed.usable
    assert levels(guessed, "dev: short") == ["warning"]


def test_half_present_splits_and_unread_arrays(tmp_path: Path) -> None:
    build(tmp_path)
    build(tmp_path, "test")
    (tmp_path / "test_caps.txt").unlink()
    np.save(tmp_path / "train_ims_int8.npy", np.ones(3))
    report = check_data(tmp_path)
    assert levels(report, "test_ids.txt, test_ims.npy without 'test_caps.txt'") == ["warning"]
    assert levels(report, "not read: train_ims_int8.npy") == ["warning"]


def test_annotations_alone_are_not_usable(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "train_ims.npy").unlink()
    report = check_data(tmp_path)
    assert not report.usable
    assert levels(report, "train: 4 images, 20 captions") == ["ok"]
    assert levels(report, "annotations only") == ["error"]


def test_ids_and_pictures_are_compared_both_ways(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("train0", "train1", "train3", "stranger"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    report = check_data(tmp_path)
    assert report.usable  # the features are complete; the pictures are an extra
    assert levels(report, "1 ids without a picture: train2") == ["warning"]
    assert levels(report, "1 pictures without an id: stranger.png") == ["warning"]
    assert levels(report, "pictures: all 3 decode") == ["ok"]
    (tmp_path / "train_ims.npy").unlink()
    (tmp_path / "images" / "train1.png").write_bytes(b"broken")
    report = check_data(tmp_path)
    assert report.layout == "raw_tree"
    assert not report.usable
    assert levels(report, "1 ids without a picture: train2") == ["error"]
    assert levels(report, "1 pictures do not decode (all 3 tried)") == ["error"]


def test_many_pictures_are_sampled(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = []
    for k in range(301):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "images" / f"{k}.png")
        rows.append(json.dumps({"image": f"images/{k}.png", "caption": "x"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    report = check_data(tmp_path)
    assert report.usable
    assert levels(report, "pictures: a sample of 200 of 301 decode") == ["ok"]


def test_images_in_train_and_test_are_told(tmp_path: Path) -> None:
    build(tmp_path, "train")
    build(tmp_path, "test")
    (tmp_path / "test_ids.txt").write_text("a\nb\ntrain1\nc\n")
    assert levels(check_data(tmp_path), "train and test: 1 images in both: train1") == ["warning"]


def test_boxes_outside_the_picture_are_told(tmp_path: Path) -> None:
    build(tmp_path, images=2)
    boxes = np.tile(np.asarray([0.0, 0.0, 0.5, 1.0], np.float32), (2, 3, 1))
    np.save(tmp_path / "train_boxes.npy", boxes)
    assert levels(check_data(tmp_path), "3 boxes per image, all in 0..1") == ["ok"]
    boxes[1, 2] = [10, 20, 30, 40]
    np.save(tmp_path / "train_boxes.npy", boxes)
    assert levels(check_data(tmp_path), "1 image with boxes outside 0..1 or turned around: number 1") == ["warning"]


def test_git_lfs_pointers_are_found(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "train_ims.npy").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    report = check_data(tmp_path)
    assert not report.usable
    assert levels(report, "pointers instead of files: train_ims.npy") == ["error"]


def test_vocabulary_near_the_data(tmp_path: Path) -> None:
    build(tmp_path / "x")
    vocab = tmp_path / "vocab"
    vocab.mkdir()
    assert find_vocabulary(tmp_path / "x", tmp_path / "x", "x") is None
    path = vocab / "x_precomp_vocab.json"
    path.write_text(json.dumps({"word2idx": {word: k for k, word in enumerate(["a", "dog", "number", "of"])}}))
    report = check_data(tmp_path / "x")
    assert levels(report, "4 words; 40 of 120 words unknown (33.33 %)") == ["warning"]
    assert report.usable
    for broken in ("{", "[]", '{"word2idx": {}}', '{"word2idx": {"a": 0, "b": 2}}', '{"word2idx": {"a": "x"}}'):
        path.write_text(broken)
        assert not check_data(tmp_path / "x").usable


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["train_caps.txt", "train_ids.txt", "train_ims.npy"]), data=st.data())
def test_no_damage_escapes_as_an_exception(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    root = build(tmp_path_factory.mktemp("damage"))
    raw = (root / name).read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    (root / name).write_bytes(
        raw[:start] + data.draw(st.binary(max_size=12)) + raw[start + data.draw(st.integers(0, 9)) :]
    )
    report = check_data(root)
    assert report.lines()[-1].startswith("usable: ")
    json.loads(report.to_json())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_coco.json", "{"),
        ("dataset_coco.json", '{"images": [{"split": "train"}]}'),
        ("coco_karpathy_test.json", "7"),
        ("captions_val2014.json", '{"images": 1}'),
        ("Flickr8k.token.txt", "nothing"),
        ("results.csv", "a|b|c\n\xff"),
        ("captions.jsonl", "\x00"),
        ("captions.csv", 'image,caption\n"'),
        ("train.tsv", "\n\n"),
        ("state.json", "{"),
        ("x.parquet", "PAR1"),
        ("captions.json", "["),
        ("id_mapping.json", "["),
    ],
)
def test_broken_annotation_files_are_findings(tmp_path: Path, name: str, content: str) -> None:
    if name == "id_mapping.json":
        build(tmp_path)
        (tmp_path / "train_ims.npy").unlink()
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    report = check_data(tmp_path)
    assert not report.usable
    assert any(finding.level == "error" for finding in report.findings)


def test_expected_counts_follow_the_layout() -> None:
    assert expected_counts("coco", "precomp")["testall"].captions == 25_000
    assert expected_counts("coco", "karpathy")["test"].captions == 25_010
    assert expected_counts("coco", "coco_captions")["val2014"].images == 40_504
    assert expected_counts("flickr8k", "token_files")["dev"].images == 1_000
    assert expected_counts("holiday", "folder") == {}
    assert first_few([1, 2]) == "1, 2"


def test_equal_names_in_the_folders_of_splits_are_no_overlap(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for k, name in enumerate("ab"):
            Image.fromarray(np.full((4, 4, 3), k, np.uint8)).save(tmp_path / split / f"{name}.png")
            (tmp_path / split / f"{name}.txt").write_text(f"{split} {name}\n")
    assert levels(check_data(tmp_path), "in both") == []
    rows = [{"image": "train/a.png", "caption": "x", "split": split} for split in ("train", "test")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert levels(check_data(tmp_path), "train and test: 1 images in both: train/a.png") == ["warning"]
