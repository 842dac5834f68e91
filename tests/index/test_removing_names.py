"""What a name to be removed means: an id, a file, a folder, or two of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import refused
from store_toys import save_picture

from patchword.cli import main
from patchword.errors import ConfigError, DataError
from patchword.index import Catalog, add, build, remove
from patchword.model import Model


@pytest.fixture
def numbered(model: Model, tmp_path: Path) -> Path:
    """Eight pictures, four of them in a folder that is called as an id is, and two in one whose number is no id."""
    for seed in range(8):
        save_picture(tmp_path / "p" / ("5" if seed < 4 else "x" if seed < 6 else "2024") / f"p{seed}.png", seed)
    build(tmp_path / "p", tmp_path / "i", model=model)
    return tmp_path / "i"


def held(index: Path) -> dict[int, str]:
    with Catalog(index) as catalog:
        return {item.id: item.path for item in catalog.find(range(100)).values()}


def test_a_number_that_is_a_folder_too_is_asked_about(
    numbered: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(numbered)
    for place in (numbered.parent / "p", numbered.parent):  # wherever one stands
        monkeypatch.chdir(place)
        said = refused(["index", "remove", numbered, "x", "5"], capsys, kind="ConfigError")
        assert f"'5' is the number of the image '{before[5]}', and a file or folder with 4 images" in said
        assert "write id:5 or ./5. Nothing was removed." in said
    assert held(numbered) == before


@pytest.mark.parametrize("name", ["id:5", 5])
def test_an_id_can_be_said(name: str | int, numbered: Path) -> None:
    assert remove(numbered, [name]).removed == (5,)
    with pytest.raises(DataError, match="image 5 is not in"):
        remove(numbered, [name])


@pytest.mark.parametrize("name", ["./5", "5/", "x/../5", Path("5")])
def test_a_folder_can_be_said(name: str | Path, numbered: Path) -> None:
    before = held(numbered)
    assert set(remove(numbered, [name]).removed) == {one for one, path in before.items() if path.startswith("5/")}


def test_a_number_alone_is_what_there_is(numbered: Path) -> None:
    before = held(numbered)
    assert set(remove(numbered, ["2024"]).removed) == {one for one, path in before.items() if path.startswith("2024/")}
    assert remove(numbered, ["7" if 7 in held(numbered) else "8"]).images == 5
    remove(numbered, ["./5"])
    left = min(held(numbered))
    assert remove(numbered, [str(left)]).removed == (left,)


@pytest.mark.parametrize("name", ["99", "id:99", "9" * 5000, "id:" + "9" * 19, -1, 1 << 70, "id:x", "./99", "."])
def test_what_is_not_there_is_refused(name: str | int, numbered: Path) -> None:
    with pytest.raises((DataError, ConfigError), match=r"is neither an id nor a path in|is not in"):
        remove(numbered, [name])
    assert len(held(numbered)) == 8


@pytest.fixture
def twofold(model: Model, tmp_path: Path) -> Path:
    """Two folders that hold files of the same names below them."""
    for folder, seed in (("p", 0), ("q", 2)):
        save_picture(tmp_path / folder / "x.png", seed)
        save_picture(tmp_path / folder / "deep" / "y.png", seed + 1)
    build(tmp_path / "p", tmp_path / "i", model=model)
    add(tmp_path / "i", [tmp_path / "q"], model=model)
    return tmp_path / "i"


@pytest.mark.parametrize("name", ["x.png", "./x.png", "deep/y.png"])
@pytest.mark.parametrize("stands", ["", "p"])
def test_a_file_in_two_folders_is_asked_about(
    name: str, stands: str, twofold: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(twofold.parent / stands)
    with Catalog(twofold) as catalog:
        ids = {str(item.file): item.id for item in catalog.find(range(100)).values()}
    first, second = (str(twofold.parent / folder / name) for folder in ("p", "q"))
    said = refused(["index", "remove", twofold, name], capsys, kind="ConfigError")
    assert f"{name!r} is the name of 2 images: {ids[first]} is '{first}', {ids[second]} is '{second}'." in said
    assert f"by its full path, or by its id as in id:{ids[first]}. Nothing was removed." in said
    assert len(held(twofold)) == 4
    assert remove(twofold, [second]).removed == (ids[second],)
    assert remove(twofold, [name]).removed == (ids[first],)  # now there is one


def test_a_folder_in_two_folders_is_all_of_it(twofold: Path) -> None:
    assert remove(twofold, ["deep"]).images == 2
    assert set(held(twofold).values()) == {"x.png"}


def test_the_command_takes_both_spellings(numbered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "remove", str(numbered), "id:5", "./2024"]) == 0
    assert f"removed 3 images; '{numbered}' holds 5." in capsys.readouterr().out
