"""Files of the user's columns are remembered: a sync takes over what they say now."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from store_toys import age, save_picture

from patchword.cli import main
from patchword.index import Catalog, add, build, sync, verify
from patchword.index.tables import Record, read_by_path
from patchword.model import Model


def tags(index: Path, name: str = "tag") -> dict[str, object]:
    """Path and tag of the images that have one."""
    with Catalog(index) as catalog:
        found = catalog.find(range(1, 100)).values()
        return {item.path: value for item in found if (value := item.columns.get(name)) is not None}


def write(path: Path, *rows: str, header: str = "path,tag") -> Path:
    path.write_text("\n".join((header, *rows, "")), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "tags.csv", "a/p001.png,sea", "a/new.png,wood")


@pytest.fixture
def tagged(model: Model, pictures: Path, table: Path, tmp_path: Path) -> Path:
    """An index with columns from a file that names a picture which is not there yet."""
    build(pictures, tmp_path / "i", model=model, columns=table)
    return tmp_path / "i"


def test_a_file_that_has_changed_is_read_again(tagged: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync(tagged, model="/no/such/model").column_files == ()
    write(table, "a/p001.png,", "a/p003.png,hill", "a/gone.png,x")
    assert main(["index", "sync", str(tagged)]) == 0
    said = capsys.readouterr()
    assert f"'{table}' has changed: columns of 2 images were set anew; 1 row names no image" in said.out + said.err
    assert tags(tagged) == {"a/p003.png": "hill"}
    before = sync(tagged)
    assert (before.column_files, verify(tagged).is_clean) == ((), True)
    age(table)  # the same content
    assert (sync(tagged).column_files, sync(tagged).generation) == ((), before.generation)


def test_rows_that_name_no_image_say_what_a_path_is(
    model: Model, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(pictures, tmp_path / "i", model=model)
    table = write(tmp_path / "tags.csv", "p/a/p001.png,sea", "a/p003.png,hill")  # one as a shell shows it
    assert main(["index", "add", str(tmp_path / "i"), "--columns", str(table)]) == 0
    assert capsys.readouterr().err == (
        "1 row of --columns names no image, such as 'p/a/p001.png'. Expected paths below the indexed folder, "
        "without its name, or absolute ones.\n"
    )
    write(table, "p/a/p001.png,sea", "p/a/p003.png,hill", f"{pictures / 'a/p005.png'},wood")
    assert main(["index", "add", str(tmp_path / "i"), "--columns", str(table)]) == 0
    assert "2 rows of --columns name no image, such as 'p/a/p001.png'" in capsys.readouterr().err
    assert tags(tmp_path / "i") == {"a/p003.png": "hill", "a/p005.png": "wood"}


def test_a_new_picture_gets_the_columns_that_wait_for_it(
    tagged: Path, table: Path, pictures: Path, model: Model, tmp_path: Path
) -> None:
    age(save_picture(pictures / "a/new.png", 50))
    assert sync(tagged, model=model).column_files == ()
    assert tags(tagged) == {"a/p001.png": "sea", "a/new.png": "wood"}
    other = age(save_picture(tmp_path / "other" / "z.png", 51))
    write(table, "a/p001.png,sea", "a/new.png,wood", f"{other},far")
    add(tagged, [other], model=model)
    assert tags(tagged) == {"a/p001.png": "sea", "a/new.png": "wood", "z.png": "far"}


def test_a_path_may_be_written_in_several_ways(
    tagged: Path, table: Path, pictures: Path, model: Model, tmp_path: Path
) -> None:
    ways = (f"{pictures}//a/p001.png,one", "./a//p003.png,two", f"{pictures}/./a//new.png,three", "./a/late.png,four")
    add(tagged, columns=write(table, *ways))
    assert tags(tagged) == {"a/p001.png": "one", "a/p003.png": "two"}
    age(table)
    assert sync(tagged).column_files == ()
    for seed, name in enumerate(("a/new.png", "a/late.png")):
        age(save_picture(pictures / name, 60 + seed))
    assert sync(tagged, model=model).column_files == ()
    assert tags(tagged) == {"a/p001.png": "one", "a/p003.png": "two", "a/new.png": "three", "a/late.png": "four"}


def test_a_change_while_a_file_is_read_is_not_lost(
    tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = age(write(tmp_path / "kind.csv", "a/p001.png,old", header="path,kind"))

    def read_and_change(file: Path) -> tuple[str, dict[str, Record]]:
        found = read_by_path(file)
        age(write(file, "a/p001.png,new", header="path,kind"))
        return found

    with monkeypatch.context() as patch:
        patch.setattr("patchword.index.columns.read_by_path", read_and_change)
        add(tagged, columns=table)
    assert tags(tagged, "kind") == {"a/p001.png": "old"}
    age(table)
    assert len(sync(tagged).column_files) == 1
    assert tags(tagged, "kind") == {"a/p001.png": "new"}


def test_the_file_that_was_named_last_has_the_last_word(tagged: Path, table: Path, tmp_path: Path) -> None:
    second = write(tmp_path / "second.csv", "a/p001.png,lake,4", header="path,tag,stars")
    add(tagged, columns=second)
    write(table, "a/p001.png,dune", "a/p003.png,hill")
    assert len(sync(tagged).column_files) == 1
    assert tags(tagged) == {"a/p001.png": "lake", "a/p003.png": "hill"}
    add(tagged, columns=table)
    assert tags(tagged) == {"a/p001.png": "dune", "a/p003.png": "hill"}
    assert tags(tagged, "stars") == {"a/p001.png": 4}


def test_a_file_that_is_gone_or_broken_changes_nothing(tagged: Path, table: Path) -> None:
    os.rename(table, table.with_suffix(".away"))
    assert (sync(tagged).column_files, tags(tagged)) == ((), {"a/p001.png": "sea"})
    write(table, "a/p001.png,dune,7")
    for _ in range(2):
        (said,) = sync(tagged).column_files
        assert f"'{table}' line 2 has 3 fields. Expected 2. The columns that it gave stay as they were." in said
        assert tags(tagged) == {"a/p001.png": "sea"}
    write(table, "a/p001.png,dune")
    assert len(sync(tagged).column_files) == 1
    assert tags(tagged) == {"a/p001.png": "dune"}


def test_an_index_of_an_older_version_remembers_from_now_on(tagged: Path, table: Path) -> None:
    with closing(sqlite3.connect(tagged / "catalog.sqlite")) as connection, connection:
        connection.execute("DROP TABLE column_files")
    write(table, "a/p001.png,dune")
    assert (sync(tagged).column_files, tags(tagged)) == ((), {"a/p001.png": "sea"})
    add(tagged, columns=table)
    write(table, "a/p001.png,lake")
    assert len(sync(tagged).column_files) == 1
    assert tags(tagged) == {"a/p001.png": "lake"}
