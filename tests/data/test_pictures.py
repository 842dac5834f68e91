import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from patchword.data.pictures import (
    DETECTOR_MEAN_BGR,
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectorTransform,
    ImagenetTransform,
    PictureFiles,
    Transform,
    VitTransform,
    decode,
    problem_of,
    random_square_ratio_crop,
)
from patchword.errors import ConfigError, DataError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(smooth(20, 30))
    path = tmp_path / ("ein bild ä" + (".tif" if mode in ("CMYK", "I;16", "YCbCr") else ".png"))
    if mode == "I;16":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256).save(path)
    else:
        picture.convert(mode).save(path)
    pixels = decode(path)
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    grey = np.asarray(picture.convert("L")).astype(int)
    if mode in ("L", "LA", "I;16"):
        assert np.abs(pixels[..., 0].astype(int) - grey).max() <= 1
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(pixels, np.asarray(picture))


def test_palette_with_transparency_gives_no_warning(tmp_path: Path) -> None:
    picture = Image.fromarray(smooth(8, 8)).quantize(16)
    picture.save(tmp_path / "p.png", transparency=bytes(range(16)))
    assert decode(tmp_path / "p.png").shape == (8, 8, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = smooth(16, 24)
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL's numbers of the inverse turns
    stored = Image.fromarray(upright)
    stored = stored if back is None else stored.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "o.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "o.png"), upright)


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(smooth(16, 24)).save(
        tmp_path / "e.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12"
    )
    assert decode(tmp_path / "e.jpg").shape == (16, 24, 3)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".gif", ".bmp"])
def test_truncated_pictures_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    Image.fromarray(noise(64, 64)).save(path)
    assert problem_of(path) is None
    whole = path.read_bytes()
    for share in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match="'.*a\\" + ending + "'"):
            decode(path)
        problem = problem_of(path)
        assert problem is not None
        assert f"a{ending}" in problem
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@settings(max_examples=150, deadline=None)
@given(ending=st.sampled_from(["jpg", "png", "gif", "webp", "tif", "bmp"]), data=st.data())
def test_any_damage_gives_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damage") / f"a.{ending}"
    Image.fromarray(smooth(9, 11)).save(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    with contextlib.suppress(DataError):
        decode(path)  # either it still decodes or the error is ours


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture", encoding="utf-8")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "lfs.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    for name, message in [
        ("text", "not a decodable picture"),
        ("empty", "not a decodable picture"),
        ("lfs", "Git LFS pointer"),
        ("absent", "is missing"),
    ]:
        with pytest.raises(DataError, match=message):
            decode(tmp_path / f"{name}.jpg")
    assert problem_of(tmp_path / "absent.jpg") is not None
    with pytest.raises(DataError, match="can not be read"):
        decode(tmp_path)


@pytest.mark.parametrize("limit", [150, 90])
def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.fromarray(smooth(14, 14)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"big\.png"):
        decode(tmp_path / "big.png")


def test_files_are_a_source(tmp_path: Path) -> None:
    files = []
    for k in range(3):
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(noise(20 + k, 30, k)).save(files[-1])
    source = PictureFiles(files)
    with pytest.raises(ConfigError, match="no transform"):
        source.read([0])
    source = source.with_transform(VitTransform(8))
    batch = source.select([2, 0]).read([1, 0])
    assert batch.values.shape == (2, 3, 8, 8)
    assert batch.lengths is None
    assert torch.equal(batch.values[1], VitTransform(8)(decode(files[2])))
    draws = [np.random.default_rng(5), np.random.default_rng(6)]
    trained = source.read([0, 1], draws)
    assert torch.equal(trained.values[1], VitTransform(8)(decode(files[1]), np.random.default_rng(6)))
    with pytest.raises(ConfigError, match="1 generators"):
        source.read([0, 1], draws[:1])
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy.read([0]).values, source.read([0]).values)
    assert source.read([]).values.shape[0] == 0


def opencv_linear(picture: np.ndarray, size: int) -> np.ndarray:
    """Bilinear resize with half-pixel centres and clamped borders, written out."""

    def axis(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        centre = (np.arange(size) + 0.5) * length / size - 0.5
        low = np.floor(centre)
        return np.clip(low, 0, length - 1).astype(int), np.clip(low + 1, 0, length - 1).astype(int), centre - low

    top, bottom, v = axis(picture.shape[0])
    left, right, u = axis(picture.shape[1])
    values = picture.astype(np.float64)
    upper = values[top][:, left] * (1 - u)[None, :, None] + values[top][:, right] * u[None, :, None]
    lower = values[bottom][:, left] * (1 - u)[None, :, None] + values[bottom][:, right] * u[None, :, None]
    return upper * (1 - v)[:, None, None] + lower * v[:, None, None]


def test_detector_transform_is_bgr_minus_means() -> None:
    picture = noise(37, 53)
    result = DetectorTransform(16)(picture).numpy().transpose(1, 2, 0)
    expected = opencv_linear(picture, 16)[..., ::-1] - np.asarray(DETECTOR_MEAN_BGR)
    assert np.allclose(result, expected, atol=1e-3)


def test_imagenet_transform_is_rgb_normalised() -> None:
    picture = noise(10, 7)
    result = ImagenetTransform(16)(picture).numpy().transpose(1, 2, 0)
    expected = (opencv_linear(picture, 16) / 255 - np.asarray(IMAGENET_MEAN)) / np.asarray(IMAGENET_STD)
    assert np.allclose(result, expected, atol=1e-5)


def test_square_ratio_crop_keeps_one_ratio() -> None:
    picture = noise(100, 200)
    ratios = []
    for seed in range(50):
        crop = random_square_ratio_crop(picture, np.random.default_rng(seed))
        ratios.append(crop.shape[0] / 100)
        assert abs(crop.shape[1] / 200 - crop.shape[0] / 100) < 0.011
    assert 0.59 <= min(ratios) < 0.65
    assert 0.95 < max(ratios) <= 1
    assert random_square_ratio_crop(noise(1, 1), np.random.default_rng(0)).shape == (1, 1, 3)


def test_detector_draws_are_ratio_place_flip() -> None:
    picture = noise(40, 60)
    draw = np.random.default_rng(3)
    result = DetectorTransform(8)(picture, draw)
    again = np.random.default_rng(3)
    crop = random_square_ratio_crop(picture, again)
    square = DetectorTransform(8)(crop)
    assert torch.equal(result, square.flip(-1) if again.random() < 0.5 else square)


def test_vit_evaluation_is_pils_bicubic() -> None:
    picture = noise(50, 20)
    resized = np.asarray(Image.fromarray(picture).resize((24, 24), Image.Resampling.BICUBIC)) / 255
    expected = (resized - np.asarray(IMAGENET_MEAN)) / np.asarray(IMAGENET_STD)
    assert np.allclose(VitTransform(24)(picture).numpy().transpose(1, 2, 0), expected, atol=1e-6)
    half = VitTransform(24, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))(picture)
    assert np.allclose(half.numpy().transpose(1, 2, 0), resized * 2 - 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(100, 100), (40, 300), (300, 40), (3, 3), (1, 1)])
def test_vit_crops_have_the_asked_area_and_ratio(shape: tuple[int, int]) -> None:
    transform = VitTransform(8)
    for seed in range(30):
        top, left, h, w = transform._rectangle(*shape, np.random.default_rng(seed))
        assert 0 <= top <= top + h <= shape[0]
        assert 0 <= left <= left + w <= shape[1]
        assert h >= 1
        assert w >= 1
        if shape == (100, 100):
            assert 0.58 <= h * w / 1e4 <= 1
            assert 0.73 <= w / h <= 1.36
        assert transform(noise(*shape), np.random.default_rng(seed)).shape == (3, 8, 8)


@pytest.mark.parametrize("transform", [DetectorTransform(8), ImagenetTransform(8), VitTransform(8)])
def test_transforms_are_repeatable_and_picklable(transform: Transform) -> None:
    picture = noise(30, 40)
    draws = [transform(picture, np.random.default_rng(seed)) for seed in range(12)]
    again = [pickle.loads(pickle.dumps(transform))(picture, np.random.default_rng(seed)) for seed in range(12)]
    assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))
    assert not any(torch.equal(draws[0], other) for other in draws[1:])
    assert all(value.dtype == torch.float32 and value.is_contiguous() for value in draws)
    assert torch.equal(transform(picture, None), transform(picture, None))


def test_a_program_in_disguise_is_no_picture(tmp_path: Path) -> None:
    """PostScript named .jpg: opening it as an EPS picture would start an interpreter."""
    path = tmp_path / "harmless.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match="not a decodable picture"):
        decode(path)
