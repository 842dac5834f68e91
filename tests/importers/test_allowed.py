"""What may stand beside the weights in an authors' file, and that nothing is reached through it."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from golden_authors import Authors

import patchword
from patchword.errors import CheckpointError
from patchword.importers.allowed import NotAllowedError, allow_list
from patchword.importers.checkpoint import import_checkpoint, read_authors_file

NUMBERS = [
    np.float64(512.5),
    np.float32(0.25),
    np.float16(2.5),
    np.int64(-3),
    np.int32(7),
    np.uint8(200),
    np.bool_(True),
    np.dtype(">f8").type(1.5),
]


@pytest.fixture
def vse(golden: Path) -> Authors:
    return Authors(golden, "vse_inf", "vse_infinity/case1")


def read(path: Path, value: object) -> Any:
    torch.save({"model": {}, "it": value}, path)
    return read_authors_file(path)["it"]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers_of_numpy_become_plain_ones(tmp_path: Path, value: Any) -> None:
    found = read(tmp_path / "m.pth", value)
    assert found == value.item()
    assert type(found) is type(value.item())


def test_numbers_of_older_numpy_and_of_other_machines_are_read(tmp_path: Path) -> None:
    def pickled(module: bytes, order: bytes, raw: bytes) -> bytes:
        kind = b"cnumpy\ndtype\nX\x02\0\0\0f8K\0K\1\x87R"
        state = b"(K\3X\1\0\0\0" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        encoded = b"c_codecs\nencode\n" + raw + b"X\6\0\0\0latin1\x86R"
        return b"c" + module + b"\nscalar\n" + kind + state + encoded + b"\x86R"

    little = b"X\x09\0\0\0\0\0\0\0\0\0\xc3\xb8?"  # 1.5 in UTF-8 of latin1
    big = b"X\x09\0\0\0?\xc3\xb8\0\0\0\0\0\0"
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        for order, raw in ((b"<", little), (b">", big)):
            head = b"\x80\2}(X\5\0\0\0model}X\2\0\0\0it"
            (tmp_path / "m.pth").write_bytes(legacy(head + pickled(module, order, raw) + b"u."))
            assert read_authors_file(tmp_path / "m.pth")["it"] == 1.5


def legacy(content: bytes) -> bytes:
    """A file of torch before 1.6 without tensors."""
    return b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {})) + content + pickle.dumps([], 2)


@pytest.mark.parametrize("path", [Path("/data/f30k"), PurePosixPath("a/b c"), PureWindowsPath("C:/data/f30k")], ids=str)
def test_paths_become_text(tmp_path: Path, path: Any) -> None:
    assert read(tmp_path / "m.pth", path) == str(path)


@pytest.mark.parametrize("factory", [dict, list, int, float, str, set, collections.OrderedDict, None])
def test_default_dictionaries_become_plain_ones(tmp_path: Path, factory: Callable[[], Any] | None) -> None:
    found = read(tmp_path / "m.pth", collections.defaultdict(factory, {"a": 1}))
    assert (type(found), found) == (dict, {"a": 1})


def test_a_file_with_harmless_contents_is_imported(vse: Authors, tmp_path: Path) -> None:
    vse.options |= {"data_path": Path("/data/f30k"), "margin": np.float32(0.25), "seed": np.int64(3)}
    content = vse.content() | {"best_rsum": np.float64(512.5), "epoch": np.int64(7)}
    content |= {"amp": collections.defaultdict(dict, {"scale": {}}), "ema": collections.OrderedDict(a=torch.ones(1))}
    torch.save(content, tmp_path / "model_best.pth")
    result = import_checkpoint("vse_inf", tmp_path / "model_best.pth", tmp_path / "ours")
    assert (result.options["data_path"], result.options["seed"]) == (str(Path("/data/f30k")), 3)
    model = patchword.load(result.folder)
    assert (model.about["epoch"], model.about["best_rsum"]) == (7, 512.5)
    loss: Any = model.method.loss
    assert loss.margin == 0.25


# ------------------------------------------------------------------ refused


class Call:
    """Unpickling this freely calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


SCALAR = np.float64(1).__reduce__()[0]
FIELDS = np.dtype([("a", "O")])


def traps(folder: Path) -> Iterator[tuple[str, Any]]:
    """Contents with allowed names, each of which makes ``folder`` when it is unpickled freely or given to NumPy."""
    made = Call(os.mkdir, str(folder))
    nested = pickle.dumps(made, 2)
    yield "of object type, another object in it", Call(SCALAR, np.dtype("O"), made)
    yield "of object type, a pickle in it", Call(SCALAR, np.dtype("O"), nested)
    yield "with fields of object type, a pickle in it", Call(SCALAR, FIELDS, nested)
    yield "with fields, an array of objects in it", Call(SCALAR, FIELDS, np.array([(made,)], FIELDS))
    yield "bytes of a number that are a call", Call(SCALAR, np.dtype("f8"), made)
    yield "type of a number that is a call", Call(SCALAR, made, b"\0" * 8)
    yield "type made by a call", Call(np.dtype, made)
    yield "factory that is a call", Call(collections.defaultdict, made)
    yield "factory that is a function", collections.defaultdict(os.getcwd)
    yield "path with a call in it", Call(PurePosixPath, made)
    yield "path in an array of objects", np.array([made], dtype=object)


NAMES = [name for name, _ in traps(Path("none"))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["best_rsum", "opt", "model"])
def test_nothing_in_a_harmless_looking_file_is_run(vse: Authors, tmp_path: Path, name: str, where: str) -> None:
    folder = tmp_path / "owned"
    content, trap = vse.content(), dict(traps(folder))[name]
    if where == "opt":
        content["opt"].extra = trap
    else:
        content[where] = trap
    torch.save(content, tmp_path / "model_best.pth")
    with pytest.raises(CheckpointError, match="not allowed, and nothing in it was run: ") as refused:
        import_checkpoint("vse_inf", tmp_path / "model_best.pth", tmp_path / "ours")
    assert "\n" not in str(refused.value)
    assert not folder.exists()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if "a pickle" not in name and "function" not in name])
def test_the_traps_would_have_worked(tmp_path: Path, name: str) -> None:
    torch.save({"model": {}, "it": dict(traps(tmp_path / "owned"))[name]}, tmp_path / "m.pth")
    with contextlib.suppress(TypeError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, for scalars of the object type
        torch.load(tmp_path / "m.pth", weights_only=False)
    assert (tmp_path / "owned").is_dir()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Call(SCALAR, np.dtype("O"), 3), "a NumPy scalar of type 'O8'"),
        (Call(SCALAR, FIELDS, b"\0" * 8), "a NumPy scalar of type 'V8'"),
        (Call(SCALAR, np.dtype("f8"), [1]), "a NumPy scalar of type 'f8' made of list"),
        (Call(SCALAR, np.dtype("f8"), b"\0" * 9), "a NumPy scalar of type 'f8' made of bytes"),
        (Call(SCALAR, 1.5, b"\0" * 8), "a NumPy scalar without a type"),
        (Call(SCALAR), "a NumPy scalar without a type"),
        (np.complex64(1j), "a NumPy scalar of type 'c8'"),
        (np.str_("text"), "a NumPy scalar of type 'U4'"),
        (np.datetime64("2020-01-01"), "a NumPy scalar of type 'M8'"),
        (np.longdouble(1), "a NumPy scalar of type"),
        (Call(PurePosixPath, 3), "a path that is not made of text"),
        (Call(int, "3"), "a call of `int`"),
        (Call(dict, [("a", 1)]), "a call of `dict`"),
        (np.ones(2), "_reconstruct"),
    ],
)
def test_other_objects_are_named_and_refused(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match="nothing in it was run: ") as refused:
        read(tmp_path / "m.pth", value)
    assert said in str(refused.value)


def test_only_names_of_the_list_are_allowed(tmp_path: Path) -> None:
    before = [np.ndarray, (SCALAR, "numpy._core.multiarray.scalar")]
    with torch.serialization.safe_globals(before):
        with pytest.raises(CheckpointError, match="a NumPy scalar of type 'O8'"):
            read(tmp_path / "m.pth", Call(SCALAR, np.dtype("O"), 3))
        assert set(torch.serialization.get_safe_globals()) >= set(before)
        with pytest.raises(NotAllowedError), allow_list():
            raise NotAllowedError
        assert set(torch.serialization.get_safe_globals()) >= set(before)
