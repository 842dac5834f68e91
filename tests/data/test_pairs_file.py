import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import recipe, refused

from patchword.cli import main
from patchword.config import merge, parse_overrides
from patchword.data.doctor import check_data
from patchword.data.open import open_split, splits_of
from patchword.data.pictures import PictureFiles
from patchword.errors import ConfigError, DataError
from patchword.evaluate.run import evaluate
from patchword.train.run import train


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(root / name)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_with_lists_ids_and_splits(tmp_path: Path) -> None:
    root = tmp_path / "my photos ü"
    pictures(root, "images/ein hund.jpg", "images/b.png")
    lines(
        root / "captions.jsonl",
        {"image": "images/ein hund.jpg", "id": "one", "split": "train", "captions": ["Ein\u2028Hund .", "zwei"]},
        {"image": "images/b.png", "id": 2, "split": "dev", "caption": "single"},
    )
    assert splits_of(root) == ["train", "dev"]
    train = open_split(root, "train")
    assert (train.dataset, train.image_ids) == ("my photos ü", ["one"])
    assert train.captions == ["Ein\u2028Hund .", "zwei"]
    assert isinstance(train.images, PictureFiles)
    assert open_split(root / "captions.jsonl", "val").image_ids == ["2"]


def test_rows_of_one_image_are_joined_wherever_they_are(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "captions.jsonl",
        *({"image": name, "caption": text} for name, text in (("b.jpg", "1"), ("a.jpg", "2"), ("b.jpg", "3"))),
    )
    split = open_split(path, "all")
    assert split.image_ids == ["b.jpg", "a.jpg"]
    assert split.captions == ["1", "2", "3"]
    assert split.owner.tolist() == [0, 1, 0]
    assert split.images is None


def test_source_named_like_the_data_set_is_chosen(tmp_path: Path) -> None:
    lines(
        tmp_path / "captions.jsonl",
        {"image": "a.jpg", "source": "flickr8k", "captions": ["x"], "split": "test"},
        {"image": "b.jpg", "source": "coco2017", "captions": ["x"], "split": "test"},
    )
    assert open_split(tmp_path, "test").n_images == 2
    split = open_split(tmp_path, "test", name="coco2017")
    assert split.image_ids == ["b.jpg"]
    assert "1 of 2 rows: source 'coco2017' only" in split.notes


def test_a_name_that_no_source_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        tmp_path / "photos" / "captions.jsonl",
        *({"image": f"{k}.jpg", "source": "flickr8k", "captions": ["x"], "split": "test"} for k in range(2)),
        {"image": "b.jpg", "source": "coco2017", "captions": ["x"], "split": "test"},
        {"image": "c.jpg", "source": "flickr8k", "captions": ["x"], "split": "train"},
    )
    with pytest.raises(DataError, match=r"no row of split 'test' has the source 'flicker8k'\. Sources found: "):
        open_split(tmp_path / "photos", "test", name="flicker8k")
    with pytest.raises(DataError, match=r"split 'train' has .*Sources found: 'flickr8k' \(1 rows\)"):
        open_split(tmp_path / "photos", "train", name="coco2017")
    for root in (tmp_path, tmp_path / "photos"):  # the name may also be that of the folder
        assert open_split(root, "test", name="photos").n_images == 3
    report = check_data(tmp_path / "photos", name="nosuch")
    assert not report.usable
    assert any("'coco2017' (1 rows)" in finding.found for finding in report.findings)
    wanted = ["evaluate", "--scores", tmp_path / "s.npy", "--data", tmp_path / "photos", "--name", "nosuch"]
    np.save(tmp_path / "s.npy", np.zeros((3, 3), np.float32))
    assert "Sources found" in refused(wanted, capsys, kind="DataError")


CSV_ROWS = [("a b.jpg", 'He said "go, now" ; then | left\tfast .'), ("ü.jpg", "two\u2028lines"), ("a b.jpg", "second")]


@pytest.mark.parametrize("delimiter", [",", ";", "|"])
def test_quoted_csv_with_sniffed_delimiter(tmp_path: Path, delimiter: str) -> None:
    rows = ["image;caption;split".replace(";", delimiter)]
    rows += [delimiter.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in (*row, "train")) for row in CSV_ROWS]
    (tmp_path / "captions.csv").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n\r\n").encode())
    split = open_split(tmp_path, "train")
    assert split.image_ids == ["a b.jpg", "ü.jpg"]
    assert split.captions == [text for _, text in CSV_ROWS]


def test_tab_separated_keeps_quotes_inside(tmp_path: Path) -> None:
    text = 'filepath\ttitle\nx/1.jpg\t"Go" he said, "now"\nx/2.jpg\t"a ""quoted"" cell"\nx/3.jpg\t5" tall\n'
    (tmp_path / "train.tsv").write_text(text, encoding="utf-8")
    split = open_split(tmp_path, "train")
    assert split.captions == ['"Go" he said, "now"', 'a "quoted" cell', '5" tall']
    assert split.notes[0] == "columns: image = filepath, caption = title"


def test_a_tab_inside_quotes_stays_in_its_cell(tmp_path: Path) -> None:
    rows = ['1.jpg\t"a dog\tand a ""cat"""', '2.jpg\t"Go" he said', '3.jpg\t5" tall', '4.jpg\t"quoted"', '5.jpg\t"open']
    (tmp_path / "captions.tsv").write_text("\n".join(["image\tcaption", *rows]) + "\n")
    wanted = ['a dog\tand a "cat"', '"Go" he said', '5" tall', "quoted", '"open']
    assert open_split(tmp_path, "all").captions == wanted


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("bild;beschreibung;teil\n1.jpg;ein Hund;train\n", encoding="utf-8")
    columns = {"image": "bild", "caption": "beschreibung", "split": "teil"}
    assert splits_of(tmp_path, columns=columns) == ["train"]
    report = check_data(tmp_path, columns=columns)
    assert [finding for finding in report.findings if finding.found.startswith("columns: image = bild")]
    assert open_split(tmp_path, "train", columns=columns).captions == ["ein Hund"]
    with pytest.raises(DataError, match=r"no caption column\. Columns found: bild"):
        open_split(tmp_path, "train", columns={"split": "teil"})
    with pytest.raises(ConfigError, match="has no column 'foto'"):
        open_split(tmp_path, "train", columns={"image": "foto"})
    with pytest.raises(ConfigError, match="names 'picture'"):
        open_split(tmp_path, "train", columns={"picture": "bild"})


def test_the_doctor_takes_the_columns_that_training_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.csv").write_text("bild;beschreibung;teil\n1.jpg;ein Hund;train\n", encoding="utf-8")
    named = "{image: bild, caption: beschreibung, split: teil}"
    main(["doctor", "data", str(tmp_path), "--data.columns", named])
    assert "columns: image = bild, caption = beschreibung, split = teil" in capsys.readouterr().out
    asked: list[str | Path] = ["doctor", "data", tmp_path]
    assert "changes a recipe" in refused([*asked, "--train.lr", "1"], capsys, kind="ConfigError")
    assert "`data.columns` is 'bild'" in refused([*asked, "--data.columns", "bild"], capsys, kind="ConfigError")


def test_a_recipe_can_name_the_columns(tmp_path: Path) -> None:
    rows = ["bild,beschreibung,teil"]
    for split, count in (("train", 8), ("dev", 4)):
        pictures(tmp_path, *(f"{split}{k}.png" for k in range(count)))
        rows += [f"{split}{k}.png,ein Hund Nummer {k},{split}" for k in range(count)]
    (tmp_path / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    image = {"kind": "resnet", "layers": [1, 1, 1, 1], "base_width": 2, "image_size": 96}
    short = {"train": {"epochs": 1, "batch_size": 8}}
    form = r"--data\.columns '\{image: NAME, caption: NAME\}'"
    with pytest.raises(DataError, match=form):
        train(recipe("vse_inf", tmp_path, short, image=image), tmp_path / "run")
    named = parse_overrides(["--data.columns", "{image: bild, caption: beschreibung, split: teil}"])
    made = recipe("vse_inf", tmp_path, merge(short, named), image=image)
    result = train(made, tmp_path / "run")
    assert result.position.step == 1
    assert evaluate(result.run, tmp_path, split="dev").n_images == 4  # the run knows the names


@pytest.mark.parametrize("columns", [None, {"id": "id"}])
def test_ids_that_number_captions_do_not_tell_images_apart(tmp_path: Path, columns: dict[str, str] | None) -> None:
    rows = "".join(f"{k},{'ab'[k // 5]}.jpg,caption {k},test\n" for k in range(10))
    (tmp_path / "captions.csv").write_text("id,image,caption,split\n" + rows)
    split = open_split(tmp_path, "test", columns=columns)
    if columns:  # said so
        assert split.n_images == 10
        return
    assert (split.n_images, split.image_ids) == (2, ["a.jpg", "b.jpg"])
    assert split.owner.tolist() == [0] * 5 + [1] * 5
    assert any("number captions" in note for note in split.notes)


def test_the_image_id_goes_before_the_id_of_an_annotation(tmp_path: Path) -> None:
    rows = [{"image_id": k // 5, "id": 1000 + k, "caption": f"caption {k}"} for k in range(10)]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    assert open_split(tmp_path, "all").image_ids == ["0", "1"]


@pytest.mark.parametrize("written", [json.dumps, str])
def test_a_list_that_was_written_into_a_cell_is_a_list(tmp_path: Path, written: Any) -> None:
    with (tmp_path / "flickr_annotations.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for k in range(3):
            captions = [f"It's dog {k}-{j} ." for j in range(5)]
            table.writerow([written(captions), list(range(5 * k, 5 * k + 5)), "test", f"{k}.jpg", k])
        table.writerow(["[sic] a dog", [15], "test", "3.jpg", 3])
    split = open_split(tmp_path / "flickr_annotations.csv", "test")
    assert (split.n_images, split.n_captions) == (4, 16)
    assert split.captions[5:7] == ["It's dog 1-0 .", "It's dog 1-1 ."]
    assert split.captions[15] == "[sic] a dog"


def test_half_of_a_character_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text(
        '{"image": "a.jpg", "caption": "a dog \\ud83d\\ude00"}\n{"image": "b.jpg", "caption": "a dog \\ud83d"}\n'
    )
    with pytest.raises(DataError, match=r"line 2 holds half of a character .*Remove the half"):
        open_split(tmp_path, "all")
    (tmp_path / "captions.jsonl").write_text('{"image": "\\udc00.jpg", "caption": "a dog"}\n')
    with pytest.raises(DataError, match=r"line 1: the image holds half of a character"):
        open_split(tmp_path, "all")


def test_numbered_caption_columns(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(
        "image,caption_10,caption_2,caption_1\n1.jpg,ten,two,one\n2.jpg,,,only\n", encoding="utf-8"
    )
    split = open_split(tmp_path, "all")
    assert split.captions == ["one", "two", "ten", "only"]


def test_kaggle_captions_txt(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text(
        'image,caption\n1.jpg,A dog .\n1.jpg,"A dog , running ."\n', encoding="utf-8"
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "captions.txt").write_text("free text\n", encoding="utf-8")
    assert open_split(tmp_path, "all").captions_per_image() == {2: 1}
    with pytest.raises(DataError, match=r"holds captions\.txt, but no known data set"):
        splits_of(tmp_path / "notes")


def test_one_file_per_split_and_image_folder_metadata(tmp_path: Path) -> None:
    lines(tmp_path / "a" / "train.jsonl", {"image": "1.jpg", "caption": "x"})
    lines(tmp_path / "a" / "test.jsonl", {"image": "2.jpg", "caption": "y"})
    assert splits_of(tmp_path / "a") == ["train", "test"]
    assert open_split(tmp_path, "test", name="a").image_ids == ["2.jpg"]
    with pytest.raises(DataError, match=r"no split 'dev'\. Splits found: train, test"):
        open_split(tmp_path / "a", "dev")
    pictures(tmp_path / "b" / "train", "1.png")
    (tmp_path / "b" / "train" / "metadata.csv").write_text("file_name,text\n1.png,hello\n", encoding="utf-8")
    split = open_split(tmp_path / "b", "train")
    assert split.files == [tmp_path / "b" / "train" / "1.png"]


def test_json_list(tmp_path: Path) -> None:
    rows = [{"filename": "1.jpg", "sentences": [{"raw": "a"}, {"raw": "b"}]}]
    (tmp_path / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    assert open_split(tmp_path, "all").captions == ["a", "b"]


def test_pictures_in_a_folder_beside(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "1.jpg")
    path = lines(tmp_path / "captions.jsonl", {"image": "1.jpg", "caption": "x"}, {"image": "2.jpg", "caption": "x"})
    with pytest.raises(DataError, match="1 of 2 pictures are missing"):
        open_split(path, "all")
    split = open_split(path, "all", skip_broken=True)
    assert split.image_ids == ["1.jpg"]
    pictures(tmp_path / "images", "2.jpg")
    assert open_split(path, "all").files == [tmp_path / "images" / "1.jpg", tmp_path / "images" / "2.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.jsonl", '{"image": "a", "caption": ""}\n', "line 1 is empty"),
        ("captions.jsonl", '\n{"image": "a", "caption": "x"}\n{"image": "a"\n', "line 3 is not valid JSON"),
        ("captions.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("captions.jsonl", '{"image": "a", "captions": []}\n', "image 'a' has no captions"),
        ("captions.jsonl", '{"image": "a", "captions": [7]}\n', "the caption is 7"),
        ("captions.jsonl", '{"image": "", "caption": "x"}\n', "the image is empty"),
        ("captions.jsonl", '{"image": ["a"], "caption": "x"}\n', "the image is"),
        ("captions.jsonl", '{"picture": "a", "caption": "x"}\n', "no image column"),
        ("captions.jsonl", "", "has no rows"),
        ("captions.jsonl", '{"image":"a","id":1,"caption":"x"}\n{"image":"b","id":1,"caption":"x"}\n', "earlier 'a'"),
        ("captions.jsonl", '{"image":"a","split":"t","caption":"x"}\n{"image":"b","caption":"x"}\n', "names no split"),
        ("captions.csv", "image,caption\na.jpg,one, two\n", "line 2 has 3 cells, the header has 2"),
        ("captions.csv", 'image,caption\na.jpg,"open\n', r"line \d: .*Check its quotes"),
        ("captions.csv", "image,caption\na.jpg,\n", "line 2 is empty"),
        ("captions.csv", "image,caption\na.jpg,b'x y'\n", "bytes literal"),
        ("captions.json", "[1]", "entry 0 is no JSON object"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "all")


def test_restval_counts_as_train(tmp_path: Path) -> None:
    splits = ("train", "restval", "test")
    lines(tmp_path / "captions.jsonl", *({"image": f"{one}.jpg", "caption": one, "split": one} for one in splits))
    assert splits_of(tmp_path) == ["train", "test"]
    train = open_split(tmp_path, "train")
    assert train.captions == ["train", "restval"]
    assert "1 images are restval, which counts as train" in train.notes


@pytest.mark.parametrize("form", ["{}.jsonl", "{}/captions.jsonl"])
def test_restval_in_a_file_of_its_own_counts_as_train(tmp_path: Path, form: str) -> None:
    for one in ("train", "restval", "test"):
        path = tmp_path / form.format(one)
        path.parent.mkdir(exist_ok=True)
        lines(path, {"image": f"{one}.jpg", "caption": one}, {"image": f"{one}.jpg", "caption": f"{one} again"})
    assert splits_of(tmp_path) == ["train", "test"]
    train = open_split(tmp_path, "train")
    assert train.captions == ["train", "train again", "restval", "restval again"]
    assert "1 images are restval, which counts as train" in train.notes
    assert open_split(tmp_path, "test").captions == ["test", "test again"]


def test_restval_joins_training(tmp_path: Path) -> None:
    for one in ("training", "restval"):
        lines(tmp_path / f"{one}.jsonl", {"image": f"{one}.jpg", "caption": one})
    assert splits_of(tmp_path) == ["training"]
    assert open_split(tmp_path, "train").captions == ["training", "restval"]


def test_every_caption_column_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("image,caption_3,caption,caption_2,width,width\na.jpg,three,one,two,1,2\n", encoding="utf-8")
    split = open_split(tmp_path, "all")
    assert split.captions == ["one", "two", "three"]
    assert "columns: image = image, caption = caption 1, 2, ..." in split.notes
    assert open_split(tmp_path, "all", columns={"caption": "caption"}).captions == ["one"]
    for header in ("image,caption,caption,caption", "image,caption_1,caption_1,x", "image,image,caption,x"):
        path.write_text(f"{header}\na.jpg,one,two,three\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"line 1 names \d columns '\w+'\. Expected every name once"):
            open_split(tmp_path, "all")
