"""Laws that hold for every method, in evaluation: nothing depends on padding, on the batch, or on how work is cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from patchword.data.tokenizers import PieceTokenizer
from patchword.data.wordpiece import WordPieces
from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.explain.lit_words import explain_pair
from patchword.methods import METHODS, method_class
from patchword.methods.base import Method, Step
from patchword.model import Model
from patchword.recipe import load_recipe
from patchword.scoring.matrix import pair_scores, score_matrix
from patchword.types import Captions, Encoded, Images

RECIPES = Path(__file__).parent.parent.parent / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*_scenes.yaml"))
WORDS, WIDTH, R, L = 40, 6, 36, 9
BERT = BertConfig(
    arch={
        "vocab_size": 105,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 512,
    }
)
# Options that are faithful to the authors' code, defects included, and the value under which the laws hold.
LAWFUL = {"short_sets": "own"} | dict.fromkeys(
    ("padding", "pool_padding", "mlp_padding", "attention_padding", "score_padding"), "masked"
)


def small(name: str, text: BertConfig | BigruConfig | None = None) -> Method:
    """The model of a scenes recipe, narrow, with random weights and moved batch statistics."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    torch.manual_seed(3)
    if text is None:
        text = BigruConfig.model_validate({**recipe.model.text.model_dump(), "vocab_size": WORDS, "word_dim": 8})  # type: ignore[attr-defined]
    changes: dict[str, Any] = {"text": text, "image": RegionsConfig(width=WIDTH)}
    changes |= {key: value for key, value in LAWFUL.items() if key in type(recipe.model).model_fields}
    method: Method = method_class(recipe.method)(recipe.model.model_copy(update=changes), recipe.loss)
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
    return method.eval()


def images_of(method: Method, counts: tuple[int, ...], seed: int = 0) -> Images:
    """Images with these numbers of regions; side inputs where the method has such."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(counts), max(counts), WIDTH, generator=generator)
    lengths = torch.tensor(counts)
    values = values * (torch.arange(max(counts)) < lengths[:, None])[..., None]
    extra: dict[str, Tensor] = {}
    for name in method.image_extras:
        assert name.startswith("adjacency"), name
        near = torch.rand(len(counts), max(counts), max(counts), generator=generator) < 2 / max(counts)
        extra[name] = near | torch.eye(max(counts), dtype=torch.bool)
    return Images(values, lengths, None, extra)


def captions_of(lengths: tuple[int, ...], seed: int = 0) -> Captions:
    """Random captions of these lengths, padded with zeros."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, WORDS, (len(lengths), max(lengths)), generator=generator)
    return Captions(tokens * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]), torch.tensor(lengths))


def region_counts(method: Method) -> tuple[int, ...]:
    """Different numbers of regions, unless the method has a weight for each region."""
    fixed = getattr(method.config, "regions", None)
    return (fixed,) * 4 if isinstance(fixed, int) else (R, 5, 1, 12)


def close(found: Tensor, expected: Tensor) -> None:
    assert torch.allclose(found, expected, atol=2e-6, rtol=2e-5), float((found - expected).abs().max())


def every(test: Callable[..., None]) -> Callable[..., None]:
    """Run a law for every scenes recipe, without gradients."""
    return pytest.mark.parametrize("name", NAMES)(torch.no_grad()(test))


def test_every_method_is_under_law() -> None:
    assert {load_recipe(RECIPES / f"{name}.yaml").method for name in NAMES} == set(METHODS)


@every
def test_padding_of_images_changes_nothing(name: str) -> None:
    method = small(name)
    counts = region_counts(method)
    images = images_of(method, counts)
    together = method.encode_images(images)
    for k, count in enumerate(counts):
        extra = {key: value[k : k + 1, :count, :count] for key, value in images.extra.items()}
        alone = Images(images.values[k : k + 1, :count], torch.tensor([count]), None, extra)
        close(method.encode_images(alone).vectors, together.slice(k, k + 1).vectors)


@every
def test_padding_of_captions_changes_nothing(name: str) -> None:
    method, lengths = small(name), (L, 1, 4, 2)
    captions = captions_of(lengths)
    together = method.encode_captions(captions)
    for k, length in enumerate(lengths):
        alone = Captions(captions.tokens[k : k + 1, :length], captions.lengths[k : k + 1])
        close(method.encode_captions(alone).vectors, together.slice(k, k + 1).vectors)


def scored(method: Method, lengths: tuple[int, ...] = (L, 1, 4, 2, 7)) -> tuple[Encoded, Encoded, Tensor]:
    images = method.encode_images(images_of(method, region_counts(method)))
    captions = method.encode_captions(captions_of(lengths))
    return images, captions, method.score(images, captions)


@every
def test_order_and_company_change_nothing(name: str) -> None:
    method = small(name)
    images, captions, scores = scored(method)
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 4, 0, 2])
    close(method.score(images.select(rows), captions.select(columns)), scores[rows][:, columns])
    for i in range(len(images)):
        for j in range(len(captions)):
            close(method.score(images.slice(i, i + 1), captions.slice(j, j + 1))[0, 0], scores[i, j])


@every
def test_tiles_and_fast_forms_change_nothing(name: str) -> None:
    method = small(name)
    images, captions, scores = scored(method)
    close(pair_scores(method, images, captions), scores)
    for tile in ((1, 1), (2, 3), (4, 5)):
        close(score_matrix(method, images, captions, tile=tile), scores)


@every
def test_a_word_alone_and_a_very_long_caption_are_scored(name: str) -> None:
    method = small(name)
    assert torch.isfinite(scored(method, (1, 600, 3))[2]).all()


@every
def test_a_bert_reads_a_very_long_caption_as_far_as_its_positions_go(name: str) -> None:
    method = small(name, BERT)
    tokenizer = PieceTokenizer(
        WordPieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{k}" for k in range(100))])
    )
    model = Model(method, tokenizer)
    words = [f"w{k % 90}" for k in range(600)]
    with pytest.warns(UserWarning, match=r"1 of 3 captions are longer than the 512 tokens .* and were cut to them"):
        captions = model.encode_captions([" ".join(words), "w1", "w2 w3 w4"])
    whole = model.encode_captions([" ".join(words[:510]), "w1", "w2 w3 w4"])  # and two marks
    close(captions.vectors, whole.vectors)
    batch = images_of(method, region_counts(method))
    assert torch.isfinite(model.score(method.encode_images(batch), captions)).all()
    if hasattr(method.config, "word_limit"):
        return  # a limit of their own leaves the end out
    with pytest.warns(UserWarning, match="1 of 1 captions"):
        found = explain_pair(model, images_of(method, region_counts(method)[:1]), " ".join(words))
    assert found.words[0] == "[CLS]"
    assert found.words[-2:] == (words[509], "[SEP]")
    assert float(found.parts.sum()) == pytest.approx(found.score, abs=1e-4)


@every
def test_scores_tell_captions_apart(name: str) -> None:
    scores = scored(small(name))[2]
    assert float(scores.std(1).min()) > 1e-7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [2, 3])
def test_a_small_batch_trains(name: str, batch: int) -> None:
    method = small(name).train()
    step = Step(epoch=3, iteration=1, iterations=2, image_rows=torch.arange(batch), step=50_000)
    method.begin_step(step)
    counts = region_counts(method)[:batch]
    images, captions = (
        method.encode_images(images_of(method, counts)),
        method.encode_captions(captions_of((4, 2, 3)[:batch])),
    )
    losses: dict[str, Any] = method.losses(pair_scores(method, images, captions), images, captions, step)
    torch.autograd.backward(losses["total"])
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert grads
    assert all(torch.isfinite(g).all() for g in grads)
    assert any(g.abs().max() > 0 for g in grads)
