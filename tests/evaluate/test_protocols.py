"""A protocol's name is earned by the official rows."""

import pytest

from patchword.errors import ScoreError
from patchword.evaluate.protocols import PROTOCOLS, check_protocol, guess_protocol, protocol_named


@pytest.mark.parametrize(
    ("dataset", "split", "images", "captions", "expected"),
    [
        ("f30k", "test", 1000, 5000, "f30k-1k"),
        ("f30k_precomp", "test", 1000, 5000, "f30k-1k"),
        ("Flickr30k", "test", 1000, 5000, "f30k-1k"),
        ("f30k", "dev", 1014, 5070, "generic"),
        ("f30k", "test", 999, 4995, "generic"),
        ("coco", "testall", 5000, 25000, "coco-5k"),
        ("coco", "test", 5000, 25000, "coco-5k"),
        ("coco", "test", 5000, 25010, "generic"),
        ("coco", "test", 1000, 5000, "generic"),
        ("coco", "dev", 5000, 25000, "generic"),
        ("flickr8k", "test", 1000, 5000, "flickr8k-1k"),
        ("scenes", "test", 1000, 5000, "generic"),
        ("", "", 1000, 5000, "generic"),
    ],
)
def test_guess(dataset: str, split: str, images: int, captions: int, expected: str) -> None:
    assert guess_protocol(dataset, split, images, captions).name == expected


def test_every_guess_passes_its_own_check() -> None:
    for protocol in PROTOCOLS.values():
        split = protocol.splits[0] if protocol.splits else "any"
        check_protocol(protocol, protocol.images, protocol.captions, dataset=protocol.dataset, split=split)


def test_a_shorter_result_does_not_get_the_name() -> None:
    message = r"f30k-1k expects 1,000 images and 5,000 captions, found 999 and 4,995\. Use the protocol generic"
    with pytest.raises(ScoreError, match=message):
        check_protocol(protocol_named("f30k-1k"), 999, 4995)
    with pytest.raises(ScoreError, match=r"found 5,000 and 25,010"):
        check_protocol(protocol_named("coco-5k"), 5000, 25010)


def test_the_first_fold_of_coco_has_to_be_asked_for() -> None:
    with pytest.raises(ScoreError, match="protocol coco-1k-first-fold"):
        check_protocol(protocol_named("coco-1k-5fold"), 1000, 5000, dataset="coco", split="test")
    check_protocol(protocol_named("coco-1k-first-fold"), 1000, 5000, dataset="coco", split="test")


def test_another_split_or_data_set_does_not_get_the_name() -> None:
    with pytest.raises(ScoreError, match="expects coco, split testall or test, found coco, split dev"):
        check_protocol(protocol_named("coco-5k"), 5000, 25000, dataset="coco", split="dev")
    with pytest.raises(ScoreError, match="expects f30k, split test, found flickr8k, split test"):
        check_protocol(protocol_named("f30k-1k"), 1000, 5000, dataset="flickr8k", split="test")


def test_unknown_protocol() -> None:
    with pytest.raises(ScoreError, match=r"Unknown protocol 'coco-2k'\. Expected one of: f30k-1k"):
        protocol_named("coco-2k")
