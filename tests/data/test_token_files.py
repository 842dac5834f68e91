from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchword.data.open import open_split, splits_of
from patchword.data.pictures import PictureFiles
from patchword.errors import DataError

TOKENS = (
    'b ä.jpg#1\tSecond , with " and #3 .\r\n'
    "b ä.jpg#0\tFirst\u2028still first .\r\n"
    "a.jpg#0  Two blanks for a tab .\r\n"
    "c.jpg.1#0\tNo picture .\r\n"
)


def write(root: Path, text: str = TOKENS, name: str = "Flickr8k.token.txt") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode())
    return root / name


def test_token_file_with_split_lists(tmp_path: Path) -> None:
    root = tmp_path / "flickr8k"
    write(root)
    (root / "Flickr_8k.trainImages.txt").write_text("a.jpg\nb ä.jpg\nforeign.jpg\n", encoding="utf-8")
    (root / "Flickr_8k.devImages.txt").write_text("c.jpg.1\n", encoding="utf-8")
    assert splits_of(root) == ["train", "dev"]
    split = open_split(tmp_path, "train", name="flickr8k")
    assert split.image_ids == ["a.jpg", "b ä.jpg"]
    assert split.captions == ["Two blanks for a tab .", "First\u2028still first .", 'Second , with " and #3 .']
    assert split.owner.tolist() == [0, 1, 1]
    assert any("1 listed names without a caption" in note and "foreign" in note for note in split.notes)
    assert open_split(root, "val").name == "dev"
    assert open_split(root, "dev").dataset == "flickr8k"


def test_without_lists_everything_is_one_split(tmp_path: Path) -> None:
    write(tmp_path, name="results_20130124.token")
    assert splits_of(tmp_path) == ["all"]
    assert open_split(tmp_path, "all").n_images == 3
    with pytest.raises(DataError, match=r"Splits found: all\. Add a split column or one file per split") as caught:
        open_split(tmp_path, "train")
    assert "--split all to search and evaluate" in str(caught.value)
    assert "--data.train all --train.select_on none to train" in str(caught.value)


def test_kaggle_results(tmp_path: Path) -> None:
    text = (
        "image_name| comment_number| comment\n"
        '1.jpg| 0| A man, "the boss" , waits .\n'
        "1.jpg| 1| Another | bar .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
    )
    write(tmp_path, text, "results.csv")
    (tmp_path / "flickr30k_test.txt").write_text("2199200615\n1\n", encoding="utf-8")
    split = open_split(tmp_path, "test")
    assert split.layout.startswith("token_files")
    assert split.image_ids == ["2199200615.jpg", "1.jpg"]
    assert split.captions == ["A dog runs across the grass .", 'A man, "the boss" , waits .', "Another | bar ."]


def test_pictures_are_found(tmp_path: Path) -> None:
    write(tmp_path / "text", "a.jpg#0\tx y\n")
    (tmp_path / "Flicker8k_Dataset").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "Flicker8k_Dataset" / "a.jpg")
    assert isinstance(open_split(tmp_path, "all").images, PictureFiles)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg#0\tfine\n\nb.jpg#0\tfine\n", "line 2 is ''"),
        ("a.jpg#0\tfine\nb.jpg#0\t\n", "line 2 is 'b.jpg#0'"),
        ("a.jpg\tfine\n", "line 1 is"),
        ("a.jpg#0\tb'fine'\n", "line 1 is a Python bytes literal"),
        ("", "has no captions"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "all")


def test_list_of_other_data_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "Flickr_8k.testImages.txt").write_text("x.jpg\ny.jpg\n", encoding="utf-8")
    with pytest.raises(DataError, match="lists 2 pictures, none of which has a caption"):
        open_split(tmp_path, "test")


def test_sentences_go_before_their_base_forms(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg#0\ttwo dog be run .\n", "Flickr8k.lemma.token.txt")
    assert open_split(tmp_path, "all").captions == ["two dog be run ."]
    write(tmp_path, "a.jpg#0\tTwo dogs are running .\n")
    assert open_split(tmp_path, "all").captions == ["Two dogs are running ."]
