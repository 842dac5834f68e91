import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchword.errors import ShapeError
from patchword.types import Alignment, Captions, Encoded, Images

LENGTHS = (3, 1, 4, 1)


def sets(lengths: tuple[int, ...] = LENGTHS) -> Encoded:
    return Encoded(torch.arange(sum(lengths) * 2, dtype=torch.float32).view(-1, 2), torch.tensor(lengths))


def lists(encoded: Encoded) -> list[list[list[float]]]:
    """The sets as nested lists."""
    return [part.tolist() for part in encoded.vectors.split(encoded.lengths.tolist())]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 3))
def test_padding_and_packing_are_inverse(lengths: list[int], extra: int) -> None:
    made = sets(tuple(lengths))
    block, mask = made.padded()
    assert block.shape == (len(lengths), max(lengths), 2)
    assert mask.sum(1).tolist() == lengths
    assert (block[~mask] == 0).all()
    assert lists(Encoded.from_padded(block, made.lengths)) == lists(made)
    wide = torch.nn.functional.pad(block, (0, 0, 0, extra), value=7.0)
    assert lists(Encoded.from_padded(wide, made.lengths)) == lists(made)


def test_offsets_and_sizes() -> None:
    made = sets()
    assert made.offsets.tolist() == [0, 3, 4, 8, 9]
    assert made.max_length == 4
    assert len(made) == 4
    empty = made.slice(2, 2)
    assert (len(empty), empty.max_length, empty.offsets.tolist()) == (0, 0, [0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=7))
def test_selecting_equals_picking_from_a_list(items: list[int]) -> None:
    found = sets().select(torch.tensor(items, dtype=torch.long))
    assert lists(found) == [lists(sets())[k] for k in items]
    assert found.lengths.tolist() == [LENGTHS[k] for k in items]


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 3), (2, 2), (3, 9), (0, 1)])
def test_slices_are_views(start: int, stop: int) -> None:
    made = sets()
    found = made.slice(start, stop)
    assert lists(found) == lists(made)[start:stop]
    if len(found.vectors):
        found.vectors[0, 0] = -1.0
        assert (made.vectors == -1).any()


def test_joining_slices_gives_the_whole() -> None:
    made = sets()
    parts = [made.slice(0, 1), made.slice(1, 1), made.slice(1, 4)]
    assert torch.equal(Encoded.concat(parts).vectors, made.vectors)
    assert torch.equal(Encoded.concat(parts).lengths, made.lengths)


def gradient_of(step: str) -> tuple[Tensor, Tensor]:
    """Gradient of a weighted sum after one step, and the weights that it should equal."""
    made = sets()
    vectors = made.vectors.clone().requires_grad_()
    tracked = Encoded(vectors, made.lengths)
    weights = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    if step == "padded":
        block, mask = tracked.padded()
        total = (block[mask] * weights).sum()
    elif step == "there and back":
        total = (Encoded.from_padded(tracked.padded()[0], made.lengths).vectors * weights).sum()
    elif step == "select":
        total = (tracked.select(torch.arange(4)).vectors * weights).sum()
    else:
        total = (Encoded.concat([tracked.slice(0, 2), tracked.slice(2, 4)]).vectors * weights).sum()
    total.backward()
    assert vectors.grad is not None
    return vectors.grad, weights


@pytest.mark.parametrize("step", ["padded", "there and back", "select", "slice"])
def test_gradients_flow_through(step: str) -> None:
    found, expected = gradient_of(step)
    assert torch.equal(found, expected)


def test_a_repeated_item_gets_both_gradients() -> None:
    made = sets()
    made.vectors.requires_grad_()
    made.select(torch.tensor([1, 1, 3])).vectors.sum().backward()
    assert made.vectors.grad is not None
    assert made.vectors.grad[:, 0].tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 1]


def test_padding_gets_no_gradient() -> None:
    block = torch.ones(2, 3, 2, requires_grad=True)
    Encoded.from_padded(block, torch.tensor([2, 1])).vectors.sum().backward()
    assert block.grad is not None
    assert block.grad[..., 0].tolist() == [[1, 1, 0], [1, 0, 0]]


def test_nothing_is_copied_when_nothing_is_padded() -> None:
    block = torch.ones(2, 3, 2)
    made = Encoded.from_padded(block, torch.tensor([3, 3]))
    assert made.vectors.data_ptr() == block.data_ptr()
    assert made.padded()[0].data_ptr() == block.data_ptr()


def test_casting_and_moving() -> None:
    made = Encoded(torch.ones(2, 3, dtype=torch.bfloat16), torch.tensor([2]))
    assert made.float().vectors.dtype == torch.float32
    assert made.to("meta").vectors.device.type == made.to("meta").lengths.device.type == "meta"


def test_batches_are_cut_along_with_everything_they_hold() -> None:
    images = Images(torch.arange(24.0).view(4, 3, 2), torch.tensor([3, 2, 1, 3]), torch.ones(4, 3, dtype=torch.bool))
    part = images[1:3]
    assert len(part) == 2
    assert torch.equal(part.values, images.values[1:3])
    assert part.lengths is not None
    assert part.keep is not None
    assert part.lengths.tolist() == [2, 1]
    assert part.keep.shape == (2, 3)
    moved = images.to("meta")
    assert {t.device.type for t in (moved.values, moved.lengths, moved.keep) if t is not None} == {"meta"}
    pixels = Images(torch.zeros(2, 3, 4, 4))[0:1]
    assert (pixels.lengths, pixels.keep, len(pixels)) == (None, None, 1)
    captions = Captions(torch.arange(6).view(2, 3), torch.tensor([3, 1]))
    assert captions[1:].tokens.tolist() == [[3, 4, 5]]
    assert captions[1:].lengths.tolist() == [1]
    assert len(captions) == 2
    assert captions.to("meta").tokens.device.type == "meta"


def test_an_alignment_has_one_word_per_row() -> None:
    parts = torch.zeros(2, 3)
    assert Alignment(parts, 0.0, ("a", "dog")).words == ("a", "dog")
    assert Alignment(parts, 0.0).boxes is None
    with pytest.raises(ShapeError, match="3 words were given for 2 rows"):
        Alignment(parts, 0.0, ("a", "red", "dog"))
