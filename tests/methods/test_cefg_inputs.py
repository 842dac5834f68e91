from typing import Any

import pytest
import torch
from small_cefg import BERT, HEADS, VOCAB, WORDS, R, captions, cefg, images, scores
from torch import Tensor

from patchword.encoders.bigru import BigruConfig
from patchword.errors import ShapeError
from patchword.types import Captions, Images

# ------------------------------------------------------------------ laws


@pytest.mark.parametrize("text", [BigruConfig(vocab_size=VOCAB, word_dim=6), BERT], ids=["gru", "bert"])
@pytest.mark.parametrize("amr", ["none", "concat", "gate"])
@pytest.mark.parametrize("head", HEADS)
def test_padding_order_and_company_change_nothing(head: str, amr: str, text: Any) -> None:
    method = cefg(head=head, amr=amr, text=text)
    counts, graphs = (R, 1, 3), None if amr == "none" else (2, 0, 3, 1, 4)
    expected = scores(method, images(counts), captions(graphs=graphs))

    def same(found: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)

    same(scores(method, images(counts, extra=0), captions(graphs=graphs, extra=3)), expected)
    a, b = images(counts), captions(graphs=graphs)
    for j in range(len(WORDS)):
        same(scores(method, a, b[j : j + 1])[:, 0], expected[:, j])
    for i, n in enumerate(counts):
        alone = Images(
            a.values[i : i + 1, :n], torch.tensor([n]), None, {k: v[i : i + 1, :n, :n] for k, v in a.extra.items()}
        )
        same(scores(method, alone, b)[0], expected[i])
    order = torch.tensor([3, 0, 4, 1, 2])
    sets = method.encode_captions(b).select(order)
    same(method.score(method.encode_images(a), sets), expected[:, order])


@pytest.mark.parametrize("head", HEADS)
def test_a_very_long_caption_and_an_empty_graph(head: str) -> None:
    method = cefg(head=head, amr="concat")
    assert scores(method, images(), captions((600, 1, 2), graphs=(3, 0, 0))).isfinite().all()
    found = scores(method, images(), captions((3, 1, 2), graphs=(3, 0, 0)))
    without = scores(cefg(head=head), images(), captions((3, 1, 2)))
    assert (found[:, 0] != without[:, 0]).all()
    torch.testing.assert_close(found[:, 1:], without[:, 1:])


@pytest.mark.parametrize("amr", ["concat", "gate"])
def test_a_bert_reads_the_start_of_a_very_long_graph(amr: str) -> None:
    method, batch = cefg(amr=amr, text=BERT), captions((3, 1, 2), graphs=(30, 0, 3))
    graphs, ends = batch.extra["graph"], torch.tensor([29])
    cut = torch.cat([graphs[:, :11], graphs[:, :1]], 1)  # twelve positions
    cut[0, 11] = graphs[0, ends]
    extra = {"graph": cut, "graph_lengths": torch.tensor([12, 0, 3])}
    expected = scores(method, images(), Captions(batch.tokens, batch.lengths, extra))
    torch.testing.assert_close(scores(method, images(), batch), expected)
    with pytest.raises(ShapeError, match=r"has 30 word pieces, but the text tower reads at most 12"):
        method.train().encode_captions(batch)


# ------------------------------------------------------------------ graphs


def test_joined_graph_tokens_follow_the_words() -> None:
    method, batch = cefg(amr="concat"), captions((3, 2), graphs=(2, 1))
    sets = method.encode_captions(batch)
    assert sets.lengths.tolist() == [1 + 3 + 2, 1 + 2 + 1]
    graph = Captions(batch.extra["graph"], batch.extra["graph_lengths"])
    for k, (words, tokens) in enumerate(((3, 2), (2, 1))):
        rows = sets.slice(k, k + 1).vectors
        torch.testing.assert_close(
            rows[1 : 1 + words], method.words(batch.tokens, batch.lengths).slice(k, k + 1).vectors
        )
        torch.testing.assert_close(rows[1 + words :], method.words(graph.tokens, graph.lengths).slice(k, k + 1).vectors)
        assert len(rows) == 1 + words + tokens


def test_without_amr_graphs_are_not_looked_at() -> None:
    method = cefg()
    assert method.caption_extras == ()
    assert torch.equal(scores(method, images(), captions(graphs=(2, 1, 3, 1, 1))), scores(method, images(), captions()))


def test_the_gate_mixes_graph_tokens_into_words() -> None:
    method, batch = cefg(amr="gate"), captions((3, 2), graphs=(2, 0))
    assert method.text_gate is not None
    plain, found = method.words(batch.tokens, batch.lengths), method.encode_captions(batch)
    t, a = plain.slice(0, 1).vectors, method.words(batch.extra["graph"], batch.extra["graph_lengths"]).vectors
    mixed = torch.softmax(t @ a.T, 1) @ a
    g = torch.sigmoid(method.text_gate.gate(t))
    expected = g * t + (1 - g) * mixed
    torch.testing.assert_close(found.slice(0, 1).vectors[1:], expected / expected.norm(dim=1, keepdim=True))
    torch.testing.assert_close(found.slice(1, 2).vectors[1:], plain.slice(1, 2).vectors)  # no graph: as it was


def test_captions_without_graphs_still_reach_the_gate() -> None:
    """Processes average the gradients of the same parameters, whatever their captions are."""
    method = cefg(amr="gate")
    assert method.text_gate is not None
    method.encode_captions(captions((3, 2), graphs=(0, 0))).vectors.sum().backward()
    assert method.text_gate.gate.weight.grad is not None
    assert (method.text_gate.gate.weight.grad == 0).all()


def test_lengths_of_graphs_are_counted_when_they_are_not_given() -> None:
    method, batch = cefg(amr="concat"), captions((3, 2), graphs=(2, 1))
    bare = Captions(batch.tokens, batch.lengths, {"graph": batch.extra["graph"]})
    assert torch.equal(method.encode_captions(bare).vectors, method.encode_captions(batch).vectors)


# ------------------------------------------------------------------ what is read beside features


@pytest.mark.parametrize(
    ("adjacency", "name"),
    [("released", "adjacency_released"), ("all_sectors", "adjacency_all_sectors"), ("precomputed", "adjacency")],
)
def test_the_adjacency_that_is_asked_for(adjacency: str, name: str) -> None:
    method = cefg(adjacency=adjacency)
    assert method.image_extras == (name,)
    assert method.encode_images(images(name=name)).lengths.tolist() == [1 + 2 * R] * 3
    with pytest.raises(ShapeError, match=rf"reads `{name}` of the images"):
        method.encode_images(images(name="other"))


def test_neighbours_change_the_context() -> None:
    method, a = cefg(), images()
    alone = Images(a.values, a.lengths, None, {"adjacency_released": torch.eye(R).bool().repeat(3, 1, 1)})
    assert not torch.allclose(method.encode_images(a).vectors, method.encode_images(alone).vectors)


def test_numbers_do_as_adjacency() -> None:
    method, a = cefg(), images()
    floats = Images(a.values, a.lengths, None, {k: v.float() for k, v in a.extra.items()})
    assert torch.equal(method.encode_images(a).vectors, method.encode_images(floats).vectors)


def test_crowded_rows_of_a_users_file_are_reported() -> None:
    crowd = {"adjacency": torch.ones(3, R, R, dtype=torch.bool)}
    with pytest.warns(UserWarning, match="a region has 6 neighbours, of which 5 are read"):
        cefg(adjacency="precomputed").encode_images(Images(images().values, images().lengths, None, crowd))


def test_adjacency_of_other_regions_is_refused() -> None:
    method, a = cefg(), images()
    small = {"adjacency_released": torch.eye(3).bool().repeat(3, 1, 1)}
    with pytest.raises(ShapeError, match="describes 3 regions, but an image has 6"):
        method.encode_images(Images(a.values, a.lengths, None, small))
    dropped = Images(a.values[:, :4], torch.tensor([4, 4, 3]), None, a.extra)
    with pytest.raises(ShapeError, match=r"describes 6 regions, but the images have 4.*data.region_drop to 0"):
        method.encode_images(dropped)


def test_more_regions_than_the_model_knows_are_refused() -> None:
    with pytest.raises(ShapeError, match="7 regions, but this model normalises 6"):
        cefg().encode_images(images((7, 2)))


@pytest.mark.parametrize(("key", "value"), [("directions", 1), ("word_dropout", 0.1)])
def test_options_of_a_gru_are_refused_with_a_bert(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{key} {value} is of a GRU, but text is a BERT"):
        cefg(text=BERT, **{key: value})
    assert getattr(cefg(**{key: value}).config, key) == value
    assert cefg(text=BERT, word_dropout=0).config.word_dropout == 0  # a BERT has none


def test_missing_graphs_and_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(ShapeError, match="reads `graph` of the captions"):
        cefg(amr="concat").encode_captions(captions())
    with pytest.raises(ShapeError, match=r"has 13 word pieces, but the text tower reads at most 12"):
        cefg(text=BERT).encode_captions(captions((13, 2)))
