"""On another device than the CPU: every method encodes, scores, explains and trains there, with the CPU's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from clip_models import write_checkpoint
from elsewhere import ELSEWHERE, a_device
from methods.test_laws import NAMES, captions_of, images_of, region_counts, small
from small import recipe, write_pictures, write_precomp
from torch import Tensor

from patchword.config import TrainConfig
from patchword.data.batches import Batch
from patchword.data.open import open_split
from patchword.data.pictures import PictureFiles
from patchword.evaluate.run import evaluate
from patchword.index.building import build
from patchword.loading import load
from patchword.methods.base import Method
from patchword.retrieve.engine import Index
from patchword.scoring.matrix import check_memory, pair_scores, score_matrix
from patchword.scoring.ranks import ranks
from patchword.scoring.tiles import PairTiles
from patchword.scoring.top_k import top_k
from patchword.train.optimizer import build_optimizer
from patchword.train.run import train
from patchword.train.state import Position
from patchword.train.step import Stepper
from patchword.types import Captions, Encoded, Images

LENGTHS = (9, 1, 4, 2)


def inputs_of(method: Method) -> tuple[Images, Captions]:
    counts = region_counts(method)
    return images_of(method, counts if len(set(counts)) == 1 else (5, 3, 1, 4)), captions_of(LENGTHS)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), atol=2e-6, rtol=2e-5)


def test_the_device_refuses_what_a_card_refuses() -> None:
    with a_device() as device:
        there = torch.ones(2, 3, device=device)
        assert there.device == (there @ there.T).device == ELSEWHERE
        assert there.cpu().device.type == "cpu"
        assert float((there * torch.tensor(2.0)).sum()) == 12  # a number may be anywhere
        assert there[torch.tensor([0])].device == ELSEWHERE  # so may an index
        for mixed in (lambda: there + torch.ones(2, 3), lambda: torch.cat([there, torch.ones(2, 3)])):
            with pytest.raises(AssertionError, match="got tensors of the CPU"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_form_of_a_score_is_that_of_the_cpu(name: str) -> None:
    method = small(name)
    images, captions = inputs_of(method)
    expected = method.score(method.encode_images(images), method.encode_captions(captions))
    right = torch.arange(len(LENGTHS))
    wanted = ranks(method, method.encode_images(images), method.encode_captions(captions), right)
    with a_device() as device:
        method = small(name).to(device)
        a, b = method.encode_images(images.to(device)), method.encode_captions(captions.to(device))
        close(method.score(a, b), expected)
        close(pair_scores(method, a, b), expected)
        close(score_matrix(method, a, b), expected)
        found = ranks(method, a, b, right)
        best = top_k(method, a, b, 2, queries="captions")
    assert found.i2t.pessimistic.tolist() == wanted.i2t.pessimistic.tolist()
    assert found.t2i.pessimistic.tolist() == wanted.t2i.pessimistic.tolist()
    close(best.scores, expected.T.topk(2).values)


def test_a_device_computes_one_tile_at_a_time() -> None:
    """Its cores work on one together, and threads of their own would ask its libraries for the same at once."""
    tiles = PairTiles(lambda a, b: torch.zeros(1, 1), *[Encoded(torch.ones(8, 2), torch.ones(8).long())] * 2, (1, 1), 1)
    assert check_memory(tiles, 1 << 20, torch.device("cpu")) == 1 << 20
    assert check_memory(tiles, 1 << 20, ELSEWHERE) == 1


def test_float32_keeps_all_its_bits_on_a_card(tmp_path: Path) -> None:
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    small_run(tmp_path)
    assert not torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    load(tmp_path / "run")
    assert not torch.backends.cudnn.allow_tf32


def small_run(folder: Path, method: str = "vse_inf") -> Path:
    data = write_precomp(folder / "data")
    train(recipe(method, data, {"train": {"epochs": 1}}), folder / "run")
    return data


@torch.no_grad()
def test_recurrent_layers_stay_float32_under_autocast() -> None:
    """On a card, torch's autocast would compute them in float16, and here in bfloat16."""
    text: Any = small("vse_inf_scenes").text
    captions = captions_of(LENGTHS)
    wanted = text(captions.tokens, captions.lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(text(captions.tokens, captions.lengths), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_an_explanation_is_that_of_the_cpu(name: str) -> None:
    method = small(name)
    images, captions = inputs_of(method)
    wanted = method.explain(images, captions)
    with a_device() as device:
        found = small(name).to(device).explain(images.to(device), captions.to(device))
    assert found.score == pytest.approx(wanted.score, abs=2e-6)
    close(found.parts, wanted.parts)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_the_cpu(name: str) -> None:
    """Three, so that what begins later (momentum, graphs, hardest negatives) takes part."""
    with a_device() as device:
        found = steps_on(device, small(name).to(device), TrainConfig(epochs=3, batch_size=len(LENGTHS)))
    assert found == pytest.approx(steps_on(torch.device("cpu"), small(name), TrainConfig(epochs=3)), rel=1e-3)


def test_a_batch_in_parts_is_that_of_the_cpu() -> None:
    config = TrainConfig(epochs=3, micro_batch=2, batch_size=len(LENGTHS))
    with a_device() as device:
        found = steps_on(device, small("chan_scenes").to(device), config)
    assert found == pytest.approx(steps_on(torch.device("cpu"), small("chan_scenes"), config), rel=1e-3)


def steps_on(device: torch.device, method: Method, config: TrainConfig) -> list[float]:
    """Losses of a step in each of three epochs."""
    images, captions = inputs_of(method)
    rows = torch.arange(len(LENGTHS))
    stepper = Stepper(method.train(), config, Accelerator(cpu=True), build_optimizer(method, config))
    batch = Batch(images, captions, rows, rows)
    with mock.patch.object(Accelerator, "device", device):  # it finds real devices only
        return [stepper.take(batch, Position(epoch=k, step=1000 * k), 3).numbers["loss"] for k in range(3)]


@pytest.mark.integration
@pytest.mark.parametrize("method", ["vse_inf", "chan"])
def test_a_run_is_evaluated_and_searched_there(method: str, tmp_path: Path) -> None:
    split = open_split(small_run(tmp_path, method), "test")
    here = load(tmp_path / "run")
    wanted, hits = evaluate(here, split), here.search(split.captions[0], split, 3)
    with a_device() as device:
        model = load(tmp_path / "run", device=str(device))
        assert model.device == ELSEWHERE
        assert evaluate(model, split).headline.rsum == pytest.approx(wanted.headline.rsum)
        assert [hit.image_id for hit in model.search(split.captions[0], split, 3)] == [hit.image_id for hit in hits]


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("interaction", ["global", "patches"])
def test_a_ready_made_model_scores_there(family: str, interaction: Any, tmp_path: Path) -> None:
    pictures = sorted(write_pictures(tmp_path / "data", {"test": 3}).rglob("*.png"))
    folder = write_checkpoint(tmp_path / "model", family)

    def scores(device: str) -> Tensor:
        model = load(folder, device=device, interaction=interaction)
        encoded: tuple[Encoded, Encoded] = (
            model.encode_images(PictureFiles(pictures)),
            model.encode_captions(["a cat", "two dogs"]),
        )
        return model.score(*encoded)

    with a_device() as device:
        found = scores(str(device))
    close(found, scores("cpu"))


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:.* captions are longer than:UserWarning")
def test_an_index_is_built_and_searched_with_a_model_there(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "data", {"test": 6}) / "images"
    folder = write_checkpoint(tmp_path / "model")

    def found(device: str) -> list[tuple[str, float]]:
        place = tmp_path / f"{device[:4]}.index"
        build(pictures, place, model=folder, device=device, interaction="patches")
        with Index.open(place, device=device) as index:
            return [(hit.item.path, hit.score) for hit in index.search("a cat", k=4).hits]

    with a_device() as device:
        there = found(str(device))
    here = found("cpu")
    assert [path for path, _ in there] == [path for path, _ in here]
    assert [score for _, score in there] == pytest.approx([score for _, score in here], abs=1e-3)  # kept as float16
