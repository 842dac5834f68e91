"""Score files: round trip, the authors' formats, damage, and pickles that must not run."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from patchword.errors import ScoreError
from patchword.evaluate.scores_file import Provenance, SavedScores, data_hash, load_scores, save_scores, write_scores

IDS = ["7", "ü 9"]
CAPTIONS = ["a dog", "ein Hund läuft", "a cat", "a cat"]
OWNER = np.array([0, 0, 1, 1])


def scores(dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).random((2, 4)).astype(dtype)


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    where = Provenance("f30k", "test", "chan", "runs/a", "dev", 1.5, None)
    path = tmp_path / "new folder" / "ü.safetensors"
    save_scores(path, scores(), image_ids=IDS, captions=CAPTIONS, owner=OWNER, provenance=where, notes=["one"])
    saved = load_scores(path)
    np.testing.assert_array_equal(saved.scores, scores())
    np.testing.assert_array_equal(saved.owner, OWNER)
    assert saved.image_ids == tuple(IDS)
    assert saved.caption_digests is not None
    assert saved.caption_digests[2] == saved.caption_digests[3] != saved.caption_digests[0]
    assert (saved.provenance, saved.notes, saved.path) == (where, ("one",), str(path))
    assert [p.name for p in path.parent.iterdir()] == ["ü.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_no_value_is_rounded(tmp_path: Path, dtype: torch.dtype) -> None:
    matrix = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    saved = load_scores(
        save_scores(tmp_path / "s.safetensors", matrix.T.contiguous().T, image_ids=IDS, captions=CAPTIONS, owner=OWNER)
    )
    assert torch.equal(torch.as_tensor(saved.scores).double(), matrix.double())


def test_sizes_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    for shape, found in (((3, 4), "1 of 3 images have no right answer"), ((2, 5), "is 2 x 5 but the ground truth")):
        with pytest.raises(ScoreError, match=found):
            save_scores(tmp_path / "s.safetensors", np.zeros(shape), image_ids=IDS, captions=CAPTIONS, owner=OWNER)
    with pytest.raises(ScoreError, match=r"ends in \.safetensors"):
        save_scores(tmp_path / "s.npy", scores(), image_ids=IDS, captions=CAPTIONS, owner=OWNER)
    assert list(tmp_path.iterdir()) == []


def test_ids_belong_to_their_rows() -> None:
    with pytest.raises(ScoreError, match="'memory': 1 image ids for 2 rows"):
        SavedScores(scores(), OWNER, image_ids=("7",))
    with pytest.raises(ScoreError, match="image id '7' occurs 2 times"):
        SavedScores(scores(), OWNER, image_ids=("7", "7"))
    with pytest.raises(ScoreError, match="3 caption digests for 4 columns"):
        SavedScores(scores(), OWNER, caption_digests=np.arange(3))


def test_scores_without_ids_are_written_too(tmp_path: Path) -> None:
    path = write_scores(tmp_path / "s.safetensors", SavedScores(scores(), OWNER, notes=("fused",)))
    saved = load_scores(path)
    np.testing.assert_array_equal(saved.scores, scores())
    assert (saved.image_ids, saved.caption_digests, saved.notes) == (None, None, ("fused",))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_scores(tmp_path / "s.safetensors", scores(), image_ids=IDS, captions=CAPTIONS, owner=OWNER)

    def full(tensors: object, name: Path, metadata: object) -> None:
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(ScoreError, match="No space left on device"):
        save_scores(path, scores() * 2, image_ids=IDS, captions=CAPTIONS, owner=OWNER)
    np.testing.assert_array_equal(load_scores(path).scores, scores())
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_data_hash_sees_every_part() -> None:
    digests = np.array([1, 2])
    base = data_hash(["a", "b"], digests, np.array([0, 1]))
    assert base != data_hash(["ab", ""], digests, np.array([0, 1]))
    assert base != data_hash(["a", "b"], digests[::-1], np.array([0, 1]))
    assert base != data_hash(["a", "b"], digests, np.array([1, 0]))


@pytest.mark.parametrize("keep", [0, 4, 100, -8, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = save_scores(tmp_path / "s.safetensors", scores(), image_ids=IDS, captions=CAPTIONS, owner=OWNER)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ScoreError, match="truncated or damaged") as caught:
        load_scores(path)
    assert "\n" not in str(caught.value)


def test_changed_owner_is_noticed(tmp_path: Path) -> None:
    path = save_scores(tmp_path / "s.safetensors", scores(), image_ids=IDS, captions=CAPTIONS, owner=OWNER)
    content = path.read_bytes()
    position = content.index(struct.pack("<4q", *OWNER))
    path.write_bytes(content[:position] + struct.pack("<4q", 1, 1, 0, 0) + content[position + 32 :])
    assert load_file(path)["owner"].tolist() == [1, 1, 0, 0]
    with pytest.raises(ScoreError, match="do not fit the hash"):
        load_scores(path)


def test_safetensors_of_another_kind(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ScoreError, match="no score file: found a safetensors file of another kind"):
        load_scores(tmp_path / "model.safetensors")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f8"), np.int32])
def test_plain_npy(tmp_path: Path, dtype: type) -> None:
    matrix: np.ndarray = (100 * scores(np.float64)).astype(dtype)
    np.save(tmp_path / "s.npy", matrix)
    saved = load_scores(tmp_path / "s.npy")
    np.testing.assert_array_equal(saved.scores, matrix)
    assert saved.scores.dtype == matrix.dtype.newbyteorder("=")
    assert saved.owner.tolist() == [0, 0, 1, 1]
    assert saved.image_ids is None
    assert "belong to image j // 2" in saved.notes[0]


def test_plain_npy_in_the_order_of_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.asfortranarray(scores()))
    np.testing.assert_array_equal(load_scores(tmp_path / "s.npy").scores, scores())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(4), r"float64 of shape \(4,\)"),
        (np.zeros((2, 3)), "is 2 x 3. Expected images x captions with the same number"),
        (np.zeros((4, 2)), "is 4 x 2. Expected images x captions"),
        (np.zeros((2, 2), dtype=bool), "holds bool"),
        (np.zeros((2, 2), dtype=complex), "holds complex128"),
        (np.zeros((0, 5)), r"shape \(0, 5\)"),
        (np.array([["a", "b"]]), "holds <U1"),
    ],
)
def test_npy_that_is_no_score_matrix(tmp_path: Path, content: np.ndarray, message: str) -> None:
    np.save(tmp_path / "s.npy", content)
    with pytest.raises(ScoreError, match=message):
        load_scores(tmp_path / "s.npy")


@pytest.mark.parametrize("keep", [0, 5, 20, 130, -1])
def test_truncated_npy(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "s.npy"
    np.save(path, scores())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ScoreError) as caught:
        load_scores(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("position", "letter"), [(6, b"\t"), (8, b"\n"), (10, b"("), (21, b","), (60, b"-"), (66, b"L")]
)
def test_a_damaged_header_is_refused(tmp_path: Path, position: int, letter: bytes) -> None:
    path = tmp_path / "s.npy"
    np.save(path, scores())
    content = path.read_bytes()
    path.write_bytes(content[:position] + letter + content[position + 1 :])
    with pytest.raises(ScoreError, match=r"is no readable \.npy file") as caught:
        load_scores(path)
    assert "\n" not in str(caught.value)


def write_pickled(path: Path, payload: bytes) -> Path:
    """A .npy file whose object array is the given pickle."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(payload)
    return path


@pytest.mark.parametrize("npts", [2, np.int64(2)])
def test_the_authors_result_file(tmp_path: Path, npts: int) -> None:
    np.save(tmp_path / "s.npy", {"npts": npts, "sims": scores(np.float64)}, allow_pickle=True)  # type: ignore[arg-type]
    saved = load_scores(tmp_path / "s.npy")
    np.testing.assert_array_equal(saved.scores, scores(np.float64))
    assert "the authors' result file" in saved.notes[0]


def test_the_authors_files_of_both_conventions(tmp_path: Path) -> None:
    """npts may count images or captions, and every image may have a row for each caption."""
    plain = scores(np.float64)
    n, m = plain.shape
    repeated = np.repeat(plain, m // n, axis=0)
    for number, (npts, sims) in enumerate(((n, plain), (m, plain), (n, repeated), (m, repeated))):
        path = tmp_path / f"{number}.npy"
        np.save(path, {"npts": npts, "sims": sims}, allow_pickle=True)  # type: ignore[arg-type]
        saved = load_scores(path)
        np.testing.assert_array_equal(saved.scores, plain)
        assert saved.owner.tolist() == (np.arange(m) // (m // n)).tolist()
        assert any(f"equal in runs of {m // n}" in note for note in saved.notes) is (sims is repeated)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_both_names_of_the_numpy_core(tmp_path: Path, protocol: int) -> None:
    content = np.array({"npts": 2, "sims": scores()}, dtype=object)
    payload = pickle.dumps(content, protocol=max(protocol, 3))
    if protocol < 4:  # as numpy 1 wrote it; from protocol 4 on, names carry their length
        payload = payload.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(load_scores(write_pickled(tmp_path / "s.npy", payload)).scores, scores())


class Payload:
    """What an attacker puts into a file: a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = {"npts": 2, "sims": scores(), "extra": Payload(trace)}
    np.save(tmp_path / "s.npy", content, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match=r"refused: it wants to call .*, which is never run"):
        load_scores(tmp_path / "s.npy")
    assert not trace.exists()
    np.load(tmp_path / "s.npy", allow_pickle=True)  # the payload is a real one
    assert trace.exists()


@pytest.mark.parametrize(
    "name", ["os\nsystem", "builtins\neval", "numpy\nload", "numpy.f2py\ncompile", "numpy.core\nx"]
)
def test_names_outside_the_list_are_refused(tmp_path: Path, name: str) -> None:
    payload = b"c" + name.encode() + b"\n(S'exit 1'\ntR."
    with pytest.raises(ScoreError, match="never run"):
        load_scores(write_pickled(tmp_path / "s.npy", payload))


def test_the_allowed_names_can_not_be_misused(tmp_path: Path) -> None:
    huge = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'd'\ntR."
    with pytest.raises(ScoreError, match=r"not stored as numpy.save stores it"):
        load_scores(write_pickled(tmp_path / "a.npy", huge))
    with pytest.raises(ScoreError, match="outside the file"):
        load_scores(write_pickled(tmp_path / "b.npy", b"Psomewhere\n."))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"npts": 3, "sims": np.zeros((2, 4))}, "`npts` is 3 but `sims` is 2 x 4"),
        ({"npts": 20, "sims": np.zeros((2, 4))}, "the number of images, one row each or every row several times"),
        ({"npts": np.zeros(2), "sims": np.zeros((2, 4))}, "but `sims` is 2 x 4"),
        ({"npts": 0, "sims": np.zeros((2, 4))}, "`npts` is 0"),
        ({"npts": 2, "sims": np.arange(16.0).reshape(4, 4)}, "2 rows an image; rows 0 and 1 differ"),
        ({"sims": np.zeros((2, 4))}, "another kind"),
        ({"npts": 2, "sims": [1, 2]}, "another kind"),
        ([1, 2], "another kind"),
        ({"npts": 2, "sims": np.array([None, 1])}, r"holds object of shape \(2,\)"),
    ],
)
def test_pickles_that_hold_something_else(tmp_path: Path, content: object, message: str) -> None:
    write_pickled(
        tmp_path / "s.npy",
        pickle.dumps(np.array(content, dtype=object) if isinstance(content, dict) else content, protocol=3),
    )
    with pytest.raises(ScoreError, match=message):
        load_scores(tmp_path / "s.npy")


@pytest.mark.parametrize("cut", [1, 30, 100, 250])
def test_truncated_pickle(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "s.npy"
    np.save(path, {"npts": 2, "sims": scores()}, allow_pickle=True)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ScoreError) as caught:
        load_scores(path)
    assert "\n" not in str(caught.value)


def test_text_dumps_and_other_names_are_refused_with_a_hint(tmp_path: Path) -> None:
    for name, hint in (("s.txt", "rounding makes ties"), ("s.pt", r"\.safetensors .* or \.npy")):
        (tmp_path / name).write_text("0.12345 0.5\n")
        with pytest.raises(ScoreError, match=hint):
            load_scores(tmp_path / name)
    with pytest.raises(ScoreError, match="is not a file"):
        load_scores(tmp_path / "missing.npy")


def test_an_owner_that_does_not_fit() -> None:
    with pytest.raises(ScoreError, match="'memory': 1 of 2 images have no right answer"):
        SavedScores(scores(), np.array([0, 0, 0, 0]))
