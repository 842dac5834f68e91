import torch

from patchword.layers.training_rows import first_rows, pack, unpack
from patchword.types import Encoded


def test_unpacking_gives_back_what_was_packed() -> None:
    heads = [torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)]
    counts, fragments = torch.tensor([2, 5, 1]), torch.randn(3, 5, 4, requires_grad=True)
    sets = pack(heads, counts, fragments)
    assert sets.lengths.tolist() == [8, 8, 8]
    rows = unpack(sets, 2)
    assert all(torch.equal(a, b) for a, b in zip(rows.heads, heads, strict=True))
    assert torch.equal(rows.counts, counts)
    assert torch.equal(rows.fragments, fragments)
    assert torch.equal(first_rows(sets), heads[0])
    (first_rows(sets).sum() + rows.fragments.sum() + rows.heads[0].sum()).backward()
    assert heads[0].grad is not None
    assert heads[0].grad.eq(2).all()
    assert fragments.grad is None  # relations are read from them, nothing flows back


def test_numbers_above_256_pass_through_half_precision() -> None:
    counts, fragments = torch.tensor([257, 301, 255]), torch.randn(3, 310, 8, dtype=torch.bfloat16)
    rows = unpack(pack([fragments[:, 0]], counts, fragments), 1)
    assert torch.equal(rows.counts, counts)
    assert torch.equal(rows.fragments, fragments.float())


def test_sets_of_one_row_are_scored_by_it() -> None:
    vectors = torch.randn(3, 4)
    assert torch.equal(first_rows(Encoded(vectors, torch.ones(3, dtype=torch.long))), vectors)


def test_joined_parts_of_a_batch_unpack_as_the_whole() -> None:
    head, counts, fragments = torch.randn(4, 2), torch.tensor([3, 1, 2, 3]), torch.randn(4, 3, 2)
    parts = [pack([head[k : k + 2]], counts[k : k + 2], fragments[k : k + 2]) for k in (0, 2)]
    rows = unpack(Encoded.concat(parts), 1)
    assert torch.equal(rows.heads[0], head)
    assert torch.equal(rows.counts, counts)
    assert torch.equal(rows.fragments, fragments)
