from pathlib import Path

import pytest
import torch

from patchword.data.word_vectors import plain_form, read_vectors
from patchword.errors import DataError

WORDS = ["<pad>", "dog", "t-shirt", "o'clock", "and/or", "u.s.a", "zebra", "tshirt"]


def vectors(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes((end.join(lines) + end).encode())
    return path


def found(path: Path) -> dict[str, list[float]]:
    return {WORDS[k]: v.tolist() for k, v in read_vectors(path, WORDS, 2).items()}


def test_rows_of_known_words_are_read(tmp_path: Path) -> None:
    path = vectors(tmp_path / "v.txt", "dog 1.5 -2", "cat 3 4", "Zebra 5 6", "the 0 0")
    assert found(path) == {"dog": [1.5, -2.0]}
    assert read_vectors(path, WORDS, 2)[1].dtype == torch.float32


def test_missing_words_are_looked_up_in_a_plainer_form(tmp_path: Path) -> None:
    path = vectors(tmp_path / "v.txt", "tshirt 1 1", "oclock 2 2", "and 3 3", "usa 4 4")
    assert found(path) == {
        "t-shirt": [1, 1],
        "tshirt": [1, 1],
        "o'clock": [2, 2],
        "and/or": [3, 3],
        "u.s.a": [4, 4],
    }


@pytest.mark.parametrize("lines", [["t-shirt 9 9", "tshirt 1 1"], ["tshirt 1 1", "t-shirt 9 9"]])
def test_the_word_itself_wins_in_any_order(tmp_path: Path, lines: list[str]) -> None:
    assert found(vectors(tmp_path / "v.txt", *lines)) == {"t-shirt": [9, 9], "tshirt": [1, 1]}


def test_plain_forms() -> None:
    for word, plain in (("t-shirt/top", "tshirt"), ("dog", "dog"), ("a.m.", "am"), ("'s", "s"), ("/", "")):
        assert plain_form(word) == plain


def test_a_fasttext_header_is_skipped(tmp_path: Path) -> None:
    assert found(vectors(tmp_path / "v.txt", "2 2", "dog 1 2", "zebra 3 4")) == {"dog": [1, 2], "zebra": [3, 4]}


def test_odd_lines_of_words_that_nobody_wants_do_not_matter(tmp_path: Path) -> None:
    path = vectors(
        tmp_path / "v.txt", "dog 1 2", ". . . 5 6", "at name@domain.com 5 6", "", "\u2028x 1 2", "zebra 3 4 "
    )
    assert found(path) == {"dog": [1, 2], "zebra": [3, 4]}


def test_words_with_blanks_are_not_taken_for_their_first_part(tmp_path: Path) -> None:
    path = vectors(tmp_path / "v.txt", ". 1 2", "dog 3 4", ". . . 5 6", "dog name@domain.com 7 8", "dog . 9 9")
    rows = read_vectors(path, [".", "dog"], 2)
    assert {k: v.tolist() for k, v in rows.items()} == {0: [1, 2], 1: [3, 4]}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["cat 1 2", "dog 1 2 3"], r"line 2: 3 numbers for 'dog'. Expected 2"),
        (["cat 1 2", "dog 1"], r"line 2: 1 numbers for 'dog'"),
        (["cat 1 2", "dog one two"], r"line 2: 'dog' is followed by something that is no number"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        found(vectors(tmp_path / "v.txt", *lines))


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist"):
        found(tmp_path / "none.txt")
    (tmp_path / "v.bin").write_bytes(b"3 2\ndog \xff\xfe\x00\x01\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        found(tmp_path / "v.bin")


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    assert found(vectors(tmp_path / "v.txt", "dog 1 2", "zebra 3 4", end="\r\n")) == {"dog": [1, 2], "zebra": [3, 4]}
