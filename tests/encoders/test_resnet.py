from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from patchword.encoders.resnet import Resnet, ResnetConfig, grid_cells, rename_backbone
from patchword.errors import CheckpointError
from patchword.types import Images

TINY = ResnetConfig(layers=(1, 2, 1, 1), base_width=4, image_size=48)


@pytest.fixture
def resnet() -> Resnet:
    torch.manual_seed(0)
    made = Resnet(TINY)
    for module in made.modules():  # statistics that batch normalisation would change if it could
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made.eval()


def pixels(size: int, count: int = 2) -> Images:
    return Images(torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(size)))


@pytest.mark.parametrize("caffe", [True, False])
def test_the_number_of_cells_equals_the_real_output(caffe: bool) -> None:
    torch.manual_seed(0)
    backbone = Resnet(ResnetConfig(layers=(1, 1, 1, 1), base_width=2, caffe=caffe))
    for size in [*range(33, 101, 3), *range(32, 257, 32), 224, 225]:
        config = ResnetConfig(caffe=caffe, image_size=size)
        with torch.no_grad():
            cells, lengths = backbone(pixels(size, 1))
        assert cells.shape == (1, grid_cells(config), 64), size
        assert lengths.tolist() == [grid_cells(config)]


def test_published_backbones_have_the_known_sizes() -> None:
    with torch.device("meta"):
        resnet101, resnext = Resnet(ResnetConfig()), Resnet(ResnetConfig(groups=32, group_width=8, caffe=False))
    assert resnet101.width == resnext.width == 2048
    assert grid_cells(ResnetConfig()) == 256
    # torchvision counts 44,549,160 and 88,791,336 parameters, the 1000-way classifier included
    classifier = 2048 * 1000 + 1000
    assert sum(p.numel() for p in resnet101.parameters()) == 44_549_160 - classifier
    assert sum(p.numel() for p in resnext.parameters()) == 88_791_336 - classifier


def test_cells_are_row_major(resnet: Resnet) -> None:
    images = pixels(96)
    cells, _ = resnet(images)
    x = resnet.maxpool(torch.relu(resnet.bn1(resnet.conv1(images.values))))
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        x = stage(x)
    side = x.shape[3]
    assert torch.equal(cells[1, 1 * side + 2], x[1, :, 1, 2])


def test_the_two_styles_put_the_stride_elsewhere() -> None:
    for caffe, strides in ((True, (2, 1)), (False, (1, 2))):
        first = Resnet(ResnetConfig(layers=(1, 1, 1, 1), base_width=2, caffe=caffe)).layer2[0]
        assert (first.conv1.stride[0], first.conv2.stride[0]) == strides


def test_batch_norm_stays_in_evaluation_mode_but_trains(resnet: Resnet) -> None:
    expected = resnet(pixels(48))[0]
    before = {k: v.clone() for k, v in resnet.state_dict().items() if "running" in k or "tracked" in k}
    resnet.train()
    assert resnet.layer1.training
    assert not any(m.training for m in resnet.modules() if isinstance(m, nn.BatchNorm2d))
    found = resnet(pixels(48))[0]
    assert torch.equal(found, expected)
    found.sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in resnet.state_dict().items() if k in before)
    assert resnet.bn1.weight.grad is not None
    assert resnet.bn1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 4])
def test_freezing_takes_stages_from_the_bottom(resnet: Resnet, blocks: int) -> None:
    resnet.freeze_blocks(4)
    resnet.freeze_blocks(blocks)  # freezing less than before frees the rest again
    frozen = {name.split(".")[0] for name, p in resnet.named_parameters() if not p.requires_grad}
    free = {name.split(".")[0] for name, p in resnet.named_parameters() if p.requires_grad}
    stages = ["layer1", "layer2", "layer3", "layer4"]
    assert frozen == ({"conv1", "bn1"} if blocks else set()) | set(stages[:blocks])
    assert frozen | free == {"conv1", "bn1", *stages}
    assert not frozen & free


def authors_state(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The weights in the file form of the authors' backbone: ``base`` and ``top``."""
    names = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6"}
    made: dict[str, dict[str, Tensor]] = {"base": {}, "top": {}}
    for key, value in state.items():
        module, _, rest = key.partition(".")
        if module == "layer4":
            made["top"][f"0.{rest}"] = value
        else:
            made["base"][f"{names[module]}.{rest}"] = value
    return made


@pytest.mark.parametrize("form", ["base and top", "torchvision", "torchvision of an old version"])
def test_weights_are_read_from_every_known_form(resnet: Resnet, tmp_path: Path, form: str) -> None:
    state = resnet.state_dict()
    if form == "base and top":
        torch.save(authors_state(state), tmp_path / "w.pth")
    else:
        kept = {k: v for k, v in state.items() if "old" not in form or not k.endswith("num_batches_tracked")}
        torch.save({**kept, "fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}, tmp_path / "w.pth")
    fresh = Resnet(TINY).eval()
    fresh.load_weights(tmp_path / "w.pth")
    assert torch.equal(fresh(pixels(48))[0], resnet(pixels(48))[0])


@pytest.mark.parametrize("key", ["conv1.weight", "layer2.1.bn2.running_var", "layer4.0.conv3.weight"])
@pytest.mark.parametrize("split", [True, False])
def test_a_missing_weight_is_refused(resnet: Resnet, tmp_path: Path, key: str, split: bool) -> None:
    state = {k: v for k, v in resnet.state_dict().items() if k != key}
    torch.save(authors_state(state) if split else state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"lack 1 tensors, the first is `{key}`"):
        Resnet(TINY).load_weights(tmp_path / "w.pth")


def test_weights_of_another_size_or_no_weights_are_refused(resnet: Resnet, tmp_path: Path) -> None:
    state = {**resnet.state_dict(), "conv1.weight": torch.zeros(5, 3, 7, 7)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"`conv1.weight` has shape \(5, 3, 7, 7\), .* \(4, 3, 7, 7\)"):
        Resnet(TINY).load_weights(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="do not exist"):
        Resnet(TINY).load_weights(tmp_path / "none.pth")
    (tmp_path / "w.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="can not be read safely"):
        Resnet(TINY).load_weights(tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        Resnet(TINY).load_weights(tmp_path / "w.pth")


def test_renaming_leaves_other_names_alone() -> None:
    value = torch.zeros(1)
    found = rename_backbone({"base.0.weight": value, "base.4.0.bn1.bias": value, "top.0.0.conv1.weight": value})
    assert set(found) == {"conv1.weight", "layer1.0.bn1.bias", "layer4.0.conv1.weight"}
    assert set(rename_backbone({"layer1.0.conv1.weight": value})) == {"layer1.0.conv1.weight"}
