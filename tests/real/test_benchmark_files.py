"""CxC, ECCV-Caption, SugarCrepe and RoCOCO end to end on the real ids, with scores or features made up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from held import Rows

from patchword.data.open import open_split
from patchword.data.table import Split
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.evaluate.benchmarks import evaluate_benchmark
from patchword.evaluate.choices import read_sugarcrepe
from patchword.evaluate.cxc_files import read_cxc
from patchword.evaluate.rococo import find_attacks, read_attack
from patchword.evaluate.scores_file import Provenance, SavedScores, caption_digests
from patchword.methods.vse_inf import VseInfinity, VseInfinityConfig
from patchword.model import Model


@pytest.fixture(scope="module")
def coco(shared: Path) -> Split:
    return open_split(shared / "data" / "coco", "testall")


@pytest.fixture(scope="module")
def scores(coco: Split) -> SavedScores:
    """Noisy scores of the 5,000 x 25,000 real ids."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(5_000, 16, generator=draw)
    captions = images[torch.from_numpy(coco.owner)] + 0.9 * torch.randn(25_000, 16, generator=draw)
    ids, digests = tuple(coco.image_ids), caption_digests(coco.captions)
    return SavedScores(images @ captions.T, coco.owner, ids, digests, Provenance("coco", "testall", "noise"))


@pytest.fixture(scope="module")
def model(coco: Split) -> Model:
    """A tiny method with random weights."""
    torch.manual_seed(0)
    tokenizer = WordTokenizer(Vocabulary.build(coco.captions[:5_000], min_count=2))
    text, image = BigruConfig(vocab_size=tokenizer.size, word_dim=8), RegionsConfig(width=8)
    return Model(VseInfinity(VseInfinityConfig(joint_dim=8, image=image, text=text)).eval(), tokenizer)


@pytest.mark.parametrize(
    ("split", "captions", "low", "both"), [("test", 24_972, 29, 2_863), ("val", 24_963, 38, 2_253)]
)
def test_cxc_files_have_the_known_counts(shared: Path, split: str, captions: int, low: int, both: int) -> None:
    found = read_cxc(shared / "data" / "cxc", images=[], split=split)
    assert (len(found.i2t), len(found.t2i), len(found.image_of)) == (5_000, captions, 25_000)
    pairs = sum(map(len, found.t2i.values()))
    assert pairs == sum(map(len, found.i2t.values()))
    assert split == "val" or pairs == 35_585
    assert f"{both:,} pairs of images" in found.notes[1]
    assert found.notes[2].startswith(f"{low} pairs that COCO lists")


def test_cxc_and_eccv_agree_where_they_overlap(shared: Path, scores: SavedScores) -> None:
    cxc = evaluate_benchmark("cxc", scores, annotations=shared / "data" / "cxc")
    eccv = evaluate_benchmark("eccv", scores)
    assert (cxc.name, eccv.name) == ("cxc", "eccv")
    assert (cxc.warnings, eccv.warnings) == ((), ())
    for way, queries in (("i2t", 5_000), ("t2i", 24_972)):
        for key in ("r1", "r5", "r10"):
            assert cxc.numbers["retrieval"][way][key] == eccv.numbers["cxc"][way][key]
        assert cxc.numbers["retrieval"][way]["queries"] == queries
    assert cxc.numbers["retrieval"]["t2i"]["unanswered_as_misses"]["queries"] == 25_000
    assert cxc.numbers["correlation"]["sits"]["pairs"] == 44_833
    assert eccv.numbers["eccv"]["i2t"] | {"queries": 1_261, "unreachable": 2} == eccv.numbers["eccv"]["i2t"]
    assert eccv.numbers["eccv"]["t2i"]["queries"] == 1_332


def test_a_part_of_the_gallery_is_called_so(shared: Path, coco: Split, scores: SavedScores) -> None:
    part = SavedScores(scores.scores[:1_000, :5_000], coco.owner[:5_000], tuple(coco.image_ids[:1_000]))
    found = evaluate_benchmark("cxc", part, annotations=shared / "data" / "cxc")
    assert found.name == "cxc (partial)"
    assert len(found.numbers["missing"]["images"]) == 4_000
    assert evaluate_benchmark("eccv", part).name == "eccv (partial)"


def test_sugarcrepe_and_rococo_on_images_of_the_test_split(shared: Path, coco: Split, model: Model) -> None:
    assert len(read_sugarcrepe(shared / "data" / "sugarcrepe")) == 7_511
    attacks = [read_attack(path) for path in find_attacks(shared / "data" / "rococo")]
    assert [len(one.captions) for one in attacks] == [50_010] * 4
    regions = torch.randn(5_000, 3, 8, generator=torch.Generator().manual_seed(1))
    split = Split("coco", "testall", coco.image_ids, coco.captions, coco.owner, images=Rows(regions))
    crepe = evaluate_benchmark("sugarcrepe", model, split, annotations=shared / "data" / "sugarcrepe")
    assert crepe.name == "sugarcrepe (partial)"
    assert 0 < crepe.numbers["scored"] < crepe.numbers["items"] == 7_511
    assert 0.3 < crepe.numbers["all"]["text"] < 0.7
    few = split.select(range(300))
    one = evaluate_benchmark("rococo", model, few, annotations=shared / "data" / "rococo" / "danger.json.gz")
    numbers = one.numbers["attacks"]["danger"]
    assert (one.name, numbers["images"], numbers["rows"]) == ("rococo (partial)", 300, 5_000)
    assert len(numbers["missing_images"]) == 4_700
    assert numbers["attacked"]["r10"] <= numbers["clean"]["r10"]
    assert np.isfinite(numbers["false_rate"])
