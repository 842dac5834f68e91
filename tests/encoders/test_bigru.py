import pytest
import torch
from torch import Tensor

from patchword.encoders.bigru import Bigru, BigruConfig, set_embedding_rows

TOKENS = torch.tensor([[1, 5, 2, 0, 0], [1, 3, 4, 6, 2], [7, 0, 0, 0, 0], [1, 9, 8, 2, 0]])
LENGTHS = torch.tensor([3, 5, 1, 4])


@pytest.fixture(params=[1, 2])
def bigru(request: pytest.FixtureRequest) -> Bigru:
    torch.manual_seed(0)
    return Bigru(BigruConfig(vocab_size=10, word_dim=6, layers=request.param), joint_dim=4)


def alone(bigru: Bigru, tokens: Tensor) -> Tensor:
    """One caption without padding or packing: mean of the two directions."""
    states = bigru.rnn(bigru.embed(tokens[None]))[0][0]
    return (states[:, :4] + states[:, 4:]) / 2


def test_equal_to_every_caption_alone(bigru: Bigru) -> None:
    found = bigru(TOKENS, LENGTHS)
    assert found.shape == (4, 5, 4)
    for row, tokens, length in zip(found, TOKENS, LENGTHS.tolist(), strict=True):
        torch.testing.assert_close(row[:length], alone(bigru, tokens[:length]))
        assert (row[length:] == 0).all()


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]])
def test_any_order_of_the_batch(bigru: Bigru, order: list[int]) -> None:
    torch.testing.assert_close(bigru(TOKENS[order], LENGTHS[order]), bigru(TOKENS, LENGTHS)[order])


def test_padding_changes_nothing_whatever_ids_it_has(bigru: Bigru) -> None:
    wide = torch.full((4, 9), 9)
    for row, tokens, length in zip(wide, TOKENS, LENGTHS.tolist(), strict=True):
        row[:length] = tokens[:length]
    found = bigru(wide, LENGTHS)
    torch.testing.assert_close(found[:, :5], bigru(TOKENS, LENGTHS))
    assert (found[:, 5:] == 0).all()


def test_both_directions_are_heard(bigru: Bigru) -> None:
    changed = TOKENS[1:2].clone()
    changed[0, 2] = 8
    difference = (bigru(changed, LENGTHS[1:2]) - bigru(TOKENS[1:2], LENGTHS[1:2])).abs().amax(2)
    assert (difference > 0).all()


def test_starting_embeddings() -> None:
    torch.manual_seed(0)
    uniform = Bigru(BigruConfig(vocab_size=50, word_dim=20), 4).embed.weight
    xavier = Bigru(BigruConfig(vocab_size=50, word_dim=20, embedding="xavier"), 4).embed.weight
    assert 0.09 < uniform.abs().max().item() <= 0.1
    bound = (6 / 70) ** 0.5
    assert 0.95 * bound < xavier.abs().max().item() <= bound


def test_rows_from_word_vectors_are_copied_and_stay_trainable() -> None:
    embed = Bigru(BigruConfig(vocab_size=5, word_dim=3), 4).embed
    before = embed.weight.detach().clone()
    set_embedding_rows(embed, {1: torch.tensor([1.0, 2.0, 3.0]), 4: torch.zeros(3)})
    assert embed.weight[1].tolist() == [1, 2, 3]
    assert embed.weight[4].tolist() == [0, 0, 0]
    assert torch.equal(embed.weight[[0, 2, 3]], before[[0, 2, 3]])
    assert embed.weight.requires_grad
