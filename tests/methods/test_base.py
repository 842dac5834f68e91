import pytest
import torch
from torch import Tensor

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.encoders.resnet import ResnetConfig
from patchword.errors import ConfigError
from patchword.losses.contrastive import info_nce
from patchword.losses.triplet import hinge
from patchword.methods import METHODS, method_class
from patchword.methods.base import LossConfig, Method, Step, counted_negatives, group_of, ranking_loss
from patchword.methods.chan import Chan, ChanConfig
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig
from patchword.types import Encoded

WORDS = BigruConfig(vocab_size=12, word_dim=4)
BERT = BertConfig(
    arch={"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
)
GRID = ResnetConfig(layers=(1, 1, 1, 1), base_width=2, image_size=64)


def scores(size: int = 6) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(size))


def methods() -> list[Method]:
    regions = RegionsConfig(width=5)
    return [
        VseInfinity(VseInfinityConfig(joint_dim=8, image=regions, text=WORDS)),
        VseInfinity(VseInfinityConfig(joint_dim=8, image=GRID, residual_mlp=False, text=BERT)),
        VseInfinity(VseInfinityConfig(joint_dim=8, image=regions, text=WORDS, pooling="mean")),
        Chan(ChanConfig(joint_dim=8, image=regions, text=WORDS)),
        Chan(ChanConfig(joint_dim=8, image=regions, text=BERT, context="none")),
        Chan(ChanConfig(joint_dim=8, image=GRID, text=BERT, context="transformer")),
    ]


def test_hinge_counts_all_negatives_and_then_the_hardest() -> None:
    config = LossConfig(margin=0.3, warmup_epochs=2)
    for epoch, hardest in ((0, None), (1, None), (2, 1), (20, 1)):
        found = ranking_loss(config, scores(), Step(epoch=epoch, iteration=3, iterations=7))
        assert torch.equal(found, hinge(scores(), 0.3, hardest=hardest))


def test_info_nce_has_no_warm_up() -> None:
    config = LossConfig(kind="info_nce", margin=0.1, temperature=0.05)
    for epoch in (0, 1, 5):
        assert torch.equal(ranking_loss(config, scores(), Step(epoch=epoch)), info_nce(scores(), 0.05, 0.1))


def test_label_smoothing_is_of_info_nce() -> None:
    config = LossConfig(kind="info_nce", temperature=0.05, margin=0.1, label_smoothing=0.2)
    expected = info_nce(scores(), 0.05, 0.1, label_smoothing=0.2)
    assert torch.equal(ranking_loss(config, scores(), Step()), expected)
    assert expected > info_nce(scores(), 0.05, 0.1)
    with pytest.raises(ValueError, match=r"label_smoothing 0\.2 means nothing to the hinge"):
        LossConfig(label_smoothing=0.2)


def test_negatives_after_the_warm_up_can_stay_all() -> None:
    config = LossConfig(negatives_after="all", anneal_epochs=3)
    assert {counted_negatives(config, Step(epoch=e), 128) for e in range(8)} == {None}


def test_annealing_shrinks_from_all_to_one() -> None:
    config = LossConfig(warmup_epochs=1, anneal_epochs=3)
    counts = [counted_negatives(config, Step(e, i, 10), 128) for e in range(6) for i in range(10)]
    assert counts[:10] == [None] * 10
    assert counts[10] == 127
    numbers = [c for c in counts[10:] if c is not None]
    assert len(numbers) == 50
    assert numbers == sorted(numbers, reverse=True)
    assert set(numbers[30:]) == {1}
    assert len(set(numbers[:30])) > 15


def test_without_annealing_the_switch_is_sudden() -> None:
    config = LossConfig(warmup_epochs=0)
    assert counted_negatives(config, Step(), 128) == 1


def test_same_image_can_be_ignored() -> None:
    images = torch.tensor([7, 3, 7, 1, 3, 9])
    same = images[:, None] == images[None, :]
    for config in (LossConfig(same_image="ignored"), LossConfig(kind="info_nce", same_image="ignored")):
        found = ranking_loss(config, scores(), Step(image_rows=images))
        if config.kind == "hinge":
            assert torch.equal(found, hinge(scores(), config.margin, ignore=same))
        else:
            assert torch.equal(found, info_nce(scores(), config.temperature, config.margin, ignore=same))
        counted = config.model_copy(update={"same_image": "negative"})
        assert found < ranking_loss(counted, scores(), Step(image_rows=images))
        distinct = ranking_loss(config, scores(), Step(image_rows=torch.arange(6)))
        assert torch.equal(distinct, ranking_loss(counted, scores(), Step(image_rows=images)))


def test_the_ramp_multiplies_one_epoch() -> None:
    config = LossConfig(ramp_epoch=1)
    plain = ranking_loss(LossConfig(), scores(), Step(epoch=1))
    for iteration in (0, 3, 9):
        found = ranking_loss(config, scores(), Step(epoch=1, iteration=iteration, iterations=10))
        torch.testing.assert_close(found, plain * iteration / 10)
    for epoch in (0, 2):
        step = Step(epoch=epoch, iteration=3, iterations=10)
        assert torch.equal(ranking_loss(config, scores(), step), ranking_loss(LossConfig(), scores(), step))


def test_losses_of_a_method_are_its_loss_setting() -> None:
    made = Chan(ChanConfig(joint_dim=8, image=RegionsConfig(width=5), text=WORDS), LossConfig(margin=0.7))
    sets = Encoded(torch.ones(6, 8), torch.ones(6, dtype=torch.long))
    found = made.losses(scores(), sets, sets, Step(epoch=4))
    assert set(found) == {"total"}
    assert torch.equal(found["total"], hinge(scores(), 0.7, hardest=1))


def test_published_losses() -> None:
    assert VseInfinity.default_loss() == LossConfig(kind="hinge", margin=0.2, warmup_epochs=1)
    assert Chan.default_loss() == LossConfig(kind="hinge", margin=0.05, warmup_epochs=1)


@pytest.mark.parametrize("made", methods(), ids=lambda m: f"{m.name}-{m.config.image.kind}-{m.config.text.kind}")
def test_groups_cover_every_parameter_exactly_once(made: Method) -> None:
    groups = made.parameter_groups()
    listed = [id(p) for parameters in groups.values() for p in parameters]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in made.parameters()}
    expected = {"image", "text"}
    expected |= {"image_backbone"} if made.config.image.kind == "resnet" else set()
    expected |= {"text_backbone"} if made.config.text.kind == "bert" else set()
    assert set(groups) == expected
    for name, parameters in groups.items():
        inside = {n for n, p in made.named_parameters() if any(p is q for q in parameters)}
        assert all(("backbone." in n or ".bert." in n) == name.endswith("_backbone") for n in inside)
        assert all(n.startswith("text") == name.startswith("text") for n in inside)


def test_the_pooling_of_the_text_belongs_to_the_text() -> None:
    assert group_of("text_pool.linear.weight") == "text"
    assert group_of("image.pool.linear.weight") == "image"
    assert group_of("image.patches.backbone.layer1.0.conv1.weight") == "image_backbone"


@pytest.mark.parametrize("made", methods(), ids=lambda m: f"{m.name}-{m.config.image.kind}-{m.config.text.kind}")
def test_freezing_touches_the_backbone_only(made: Method) -> None:
    made.freeze_blocks(4)
    frozen = {group_of(n) for n, p in made.named_parameters() if not p.requires_grad}
    assert frozen == ({"image_backbone"} if made.config.image.kind == "resnet" else set())
    made.freeze_blocks(0)
    assert all(p.requires_grad for p in made.parameters())


def test_batch_statistics_are_noticed() -> None:
    for made, mixes in zip(methods(), (True, False, True, False, False, False), strict=True):
        assert made.train().has_batch_statistics is mixes
        assert made.eval().has_batch_statistics is False


def test_the_contract_must_be_filled_in() -> None:
    with pytest.raises(TypeError, match=r"abstract methods? .*encode_captions.*score"):
        Method(ChanConfig())


def test_methods_are_found_by_name() -> None:
    for name in METHODS:
        found = method_class(name)
        assert issubclass(found, Method)
        assert found.name == name
    with pytest.raises(ConfigError, match=r"unknown method 'vse'. Methods: vse_inf, chan"):
        method_class("vse")


@pytest.mark.parametrize("hardest", [True, False])
def test_the_mean_hinge_does_not_grow_with_the_batch(hardest: bool) -> None:
    """Two copies of a batch whose halves score far below the margin: the sum doubles, the mean stays."""
    step = Step(epoch=1 if hardest else 0)
    scores = 0.1 * torch.randn(6, 6, generator=torch.Generator().manual_seed(3))
    twice = torch.full((12, 12), -9.0)
    twice[:6, :6] = twice[6:, 6:] = scores
    summed, mean = LossConfig(), LossConfig(reduction="mean")
    assert float(ranking_loss(summed, twice, step)) == pytest.approx(2 * float(ranking_loss(summed, scores, step)))
    assert float(ranking_loss(mean, twice, step)) == pytest.approx(float(ranking_loss(mean, scores, step)))
    assert float(ranking_loss(mean, scores, step)) == pytest.approx(float(ranking_loss(summed, scores, step)) / 6)
