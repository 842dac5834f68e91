from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel

from patchword.data.pictures import DetectorTransform, ImagenetTransform, VitTransform
from patchword.encoders.patches import (
    GridPatches,
    Regions,
    RegionsConfig,
    TransformerPatches,
    VitConfig,
    build_patches,
    pixel_transform,
)
from patchword.encoders.resnet import ResnetConfig, grid_cells
from patchword.errors import ShapeError
from patchword.types import Images

VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
GRID = ResnetConfig(layers=(1, 1, 1, 1), base_width=2, image_size=64)
PIXELS = Images(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
FEATURES = Images(torch.ones(2, 4, 6), torch.tensor([4, 2]))


def test_regions_come_out_as_they_went_in() -> None:
    patches = build_patches(RegionsConfig(width=6))
    assert isinstance(patches, Regions)
    values, lengths = patches(FEATURES)
    assert values is FEATURES.values
    assert lengths is FEATURES.lengths
    assert not list(patches.parameters())


@pytest.mark.parametrize("class_token", [False, True])
def test_vit_tokens(class_token: bool) -> None:
    torch.manual_seed(0)
    patches = build_patches(VitConfig(arch=VIT, class_token=class_token)).eval()
    assert isinstance(patches, TransformerPatches)
    tokens, lengths = patches(PIXELS)
    assert tokens.shape == (2, 16 + class_token, patches.width)
    assert lengths.tolist() == [16 + class_token] * 2
    everything = patches.backbone(pixel_values=PIXELS.values).last_hidden_state
    torch.testing.assert_close(tokens, everything if class_token else everything[:, 1:])
    assert not [name for name, _ in patches.named_parameters() if "pooler" in name]


def test_swin_tokens() -> None:
    torch.manual_seed(0)
    patches = build_patches(VitConfig(kind="swin", arch=SWIN)).eval()
    tokens, lengths = patches(PIXELS)
    assert tokens.shape == (2, 16, 16)
    assert patches.width == 16
    assert lengths.tolist() == [16, 16]


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_pretrained_folders_are_read(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    theirs = ViTModel(ViTConfig(**VIT)) if kind == "vit" else SwinModel(SwinConfig(**SWIN))
    theirs.eval().save_pretrained(tmp_path)
    config = VitConfig(arch=VIT) if kind == "vit" else VitConfig(kind="swin", arch=SWIN)
    patches = build_patches(config).eval()
    assert isinstance(patches, TransformerPatches)
    patches.load_pretrained(tmp_path)
    expected = theirs(pixel_values=PIXELS.values).last_hidden_state[:, patches.skip :]
    torch.testing.assert_close(patches(PIXELS)[0], expected)


def test_freezing_a_transformer_is_all_or_nothing() -> None:
    patches = build_patches(VitConfig(arch=VIT))
    assert isinstance(patches, TransformerPatches)
    for blocks, trained in ((4, False), (3, True), (0, True)):
        patches.freeze_blocks(blocks)
        assert {p.requires_grad for p in patches.parameters()} == {trained}


def test_grid_keeps_the_chosen_cells_in_order() -> None:
    torch.manual_seed(0)
    patches = build_patches(GRID).eval()
    assert isinstance(patches, GridPatches)
    values = torch.randn(2, 3, 64, 64)
    every, lengths = patches(Images(values))
    assert lengths.tolist() == [grid_cells(GRID)] * 2 == [4, 4]
    keep = torch.tensor([[True, False, True, True], [False, False, False, True]])
    kept, lengths = patches(Images(values, None, keep))
    assert lengths.tolist() == [3, 1]
    assert torch.equal(kept[0], every[0, [0, 2, 3]])
    assert torch.equal(kept[1, 0], every[1, 3])
    assert (kept[1, 1:] == 0).all()
    with pytest.raises(ShapeError, match=r"\(2, 3\) keep flags for \(2, 4\) grid cells"):
        patches(Images(values, None, keep[:, :3]))
    patches.freeze_blocks(4)
    assert not any(p.requires_grad for p in patches.parameters())


@pytest.mark.parametrize("config", [GRID, VitConfig(arch=VIT), VitConfig(kind="swin", arch=SWIN)])
def test_region_features_are_refused_by_models_over_pictures(config: ResnetConfig | VitConfig) -> None:
    with pytest.raises(ShapeError, match=r"reads raw images, .* --data.images pictures"):
        build_patches(config)(FEATURES)


def test_pictures_and_other_widths_are_refused_by_models_over_regions() -> None:
    patches = build_patches(RegionsConfig(width=6))
    with pytest.raises(ShapeError, match=r"pictures were given. Use --data.images features"):
        patches(PIXELS)
    with pytest.raises(ShapeError, match="have width 5, the model was built for 6"):
        patches(Images(torch.ones(2, 4, 5), torch.tensor([4, 2])))


def test_every_encoder_gets_the_pixels_it_expects() -> None:
    assert pixel_transform(RegionsConfig()) is None
    detector = pixel_transform(ResnetConfig(image_size=320))
    imagenet = pixel_transform(ResnetConfig(image_size=224, pixels="imagenet"))
    half = VitConfig(arch=VIT, pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.25, 0.5, 0.5))
    vit, swin = pixel_transform(half), pixel_transform(VitConfig(kind="swin", arch={**SWIN, "image_size": 64}))
    assert isinstance(detector, DetectorTransform)
    assert isinstance(imagenet, ImagenetTransform)
    assert isinstance(vit, VitTransform)
    assert isinstance(swin, VitTransform)
    assert (detector.size, imagenet.size, vit.size, swin.size) == (320, 224, 32, 64)
    assert (vit.mean, vit.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
