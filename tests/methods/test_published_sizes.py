"""Every published configuration in its published size: it builds, takes a training step, and survives saving."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from patchword.config import TrainConfig
from patchword.console import peak_memory_gib
from patchword.encoders.all_tokens import SwinPatchConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.encoders.resnet import ResnetConfig
from patchword.loading import load
from patchword.methods import method_class
from patchword.methods.base import Method, Step
from patchword.model import Model
from patchword.recipe import load_recipe
from patchword.scoring.matrix import pair_scores, score_matrix
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Images

pytestmark = pytest.mark.integration

RECIPES = Path(__file__).parent.parent.parent / "recipes"
WORDS = 8481  # of SCAN's Flickr30K vocabulary
B, R, L = 3, 36, 12
FULL_PICTURES = "vse_inf_f30k_resnet152_grid_bigru"
# Swin-B of 224 pixels, of LAPS's table; there is no recipe for it.
SWIN = SwinPatchConfig(
    class_token=False, arch={"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 7}
)


def configurations() -> dict[str, Any]:
    """One recipe for each different model among the published ones, of convolutional grids one for each backbone."""
    found: dict[str, Any] = {}
    for path in sorted(RECIPES.glob("[!b]*_f30k_*.yaml"), key=lambda path: (path.stem.endswith("_bert"), path.stem)):
        recipe = load_recipe(path)
        config: Any = recipe.model
        known = (recipe.method, config.model_dump_json())
        if isinstance(config.image, ResnetConfig):
            known = ("grid", config.image.model_dump_json())
        if known not in found.values():
            found[path.stem] = known
    recipes: dict[str, Any] = {name: load_recipe(RECIPES / f"{name}.yaml") for name in found}
    laps = recipes["laps_f30k_vit_bert"]
    model = laps.model.model_copy(update={"image": SWIN})
    return {**recipes, "laps_f30k_swin_bert": replace(laps, model=model)}


PUBLISHED = configurations()
assert FULL_PICTURES in PUBLISHED


def inputs(method: Method, name: str) -> tuple[Images, Captions]:
    """A batch of the published shapes: two pictures, or three times regions, two captions of one image among them.

    Of the convolutional grids one reads pictures of the published size; the others, of a quarter of the pixels.
    """
    torch.manual_seed(0)
    config: Any = method.config
    count = B if method.reads == "regions" else 2
    lengths = torch.tensor([L, L - 3, 5][:count])
    tokens = torch.randint(4, 1000, (count, L)) * (torch.arange(L) < lengths[:, None])
    extra = {name: side(name, "images") for name in method.image_extras}
    captions = Captions(tokens, lengths, {name: side(name, "captions") for name in method.caption_extras})
    if isinstance(config.image, RegionsConfig):
        return Images(torch.rand(B, R, config.image.width), torch.full((B,), R), None, extra), captions
    size = 224
    if isinstance(config.image, ResnetConfig):
        size = config.image.image_size // (1 if name == FULL_PICTURES else 2)
    return Images(torch.randn(count, 3, size, size), None, None, extra), captions


def side(name: str, of: str) -> torch.Tensor:
    """A side input of the published shape."""
    if name.startswith("adjacency"):
        return torch.eye(R, dtype=torch.bool).expand(B, R, R)
    assert name == "clip", f"{name} of the {of}"
    return torch.randn(B, 512)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_of_published_size_trains_and_survives_saving(name: str, tmp_path: Path) -> None:
    recipe = PUBLISHED[name]
    torch.manual_seed(1)
    config = recipe.model
    if isinstance(config.text, BigruConfig):
        config = config.model_copy(update={"text": config.text.model_copy(update={"vocab_size": WORDS})})
    method: Method = method_class(recipe.method)(config, recipe.loss)
    images, captions = inputs(method, name)

    optimizer = build_optimizer(method.train(), TrainConfig(lr=recipe.train.lr, lr_factors=recipe.train.lr_factors))
    step = Step(epoch=1, iteration=5, iterations=10, image_rows=torch.tensor([0, 1, 1])[: len(images)], step=20_000)
    method.begin_step(step)
    a, b = method.encode_images(images), method.encode_captions(captions)
    total = method.losses(pair_scores(method, a, b), a, b, step)["total"]
    torch.autograd.backward(total)
    assert torch.isfinite(total)
    assert clip_gradients([p for p in method.parameters() if p.grad is not None], 2.0) > 0
    optimizer.step()

    method.eval()
    if method.reads == "pictures":
        images = images[:1]  # a score needs no second one
    with torch.no_grad():
        a, b = method.encode_images(images), method.encode_captions(captions)
        scores = score_matrix(method, a, b)
    Model(method, None).save(tmp_path / "saved")
    del optimizer
    again = load(tmp_path / "saved").method
    with torch.no_grad():
        a, b = again.encode_images(images), again.encode_captions(captions)
        assert torch.equal(score_matrix(again, a, b), scores)
    assert torch.isfinite(scores).all()
    assert peak_memory_gib() < 20
