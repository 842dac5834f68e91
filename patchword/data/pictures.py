"""Pictures: decoding a file to RGB, the transforms that feed image encoders, and a source of picture files.

No torchvision: PIL decodes and resizes, torch interpolates. A transform is a frozen dataclass that takes the decoded
picture and a random generator; without a generator it does what evaluation does.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from patchword.data.text_files import LFS_MARK
from patchword.errors import ConfigError, DataError
from patchword.types import Images

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Transform = Callable[[Picture, np.random.Generator | None], Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DETECTOR_MEAN_BGR = (102.9801, 115.9465, 122.7717)

# What is decoded, whatever a file is called: formats whose decoders only read pixels. EPS, for one, starts a program.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# What PIL's decoders raise on damaged bytes.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}


def decode(path: Path) -> Picture:
    """Decode a picture file to RGB, upright.

    Grey, palette, CMYK, 16-bit and transparent pictures become three channels; EXIF orientation is applied.

    Raises:
        DataError: the file is missing, truncated, corrupt, too large to be honest, or not a picture.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"'{path}' is missing. Expected a picture file.") from None
    except OSError as error:
        raise DataError(f"'{path}' can not be read: {error.strerror}.") from None
    return decode_bytes(raw, f"'{path}'")


def decode_bytes(raw: bytes, where: str, *, coarse: bool = False) -> Picture:
    """Decode the bytes of a picture file, see `decode`.

    Args:
        raw: the whole file.
        where: what to call it in messages.
        coarse: let JPEG decode at an eighth of the size: all bytes are read, so damage shows, but several times faster.
    """
    if raw.startswith(LFS_MARK):
        raise DataError(
            f"{where} is a Git LFS pointer of {len(raw)} bytes, not the picture. Fetch it with: git lfs pull"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damaged EXIF blocks
            return _decode_loudly(raw, where, coarse=coarse)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where} is too large to be decoded: {error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{where} is not a decodable picture ({len(raw):,} bytes). Replace or remove it.") from None
    except _DECODE_ERRORS as error:
        raise DataError(f"{where} is a damaged picture ({len(raw):,} bytes): {error}. Replace or remove it.") from None


@cache
def picture_formats() -> tuple[str, ...]:
    """PIL's names of the formats that are decoded here, as far as this PIL knows them."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode_loudly(raw: bytes, where: str, *, coarse: bool) -> Picture:
    """Decode with PIL, whose own errors and warnings come through."""
    with Image.open(io.BytesIO(raw), formats=picture_formats()) as image:
        width, height = image.size
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > limit:
            raise DataError(f"{where} claims {width} x {height} pixels. At most {limit:,} are decoded. Shrink it.")
        if coarse:
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        image.load()
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Picture:
    """RGB pixels of a loaded picture, turned as its EXIF data ask."""
    turns = _TURNS.get(_orientation(image), ())
    plain: Image.Image = image
    if plain.mode.startswith("I;16") or plain.mode == "I":
        grey = np.asarray(plain).astype(np.int64).clip(0, 65535) >> 8  # keep the upper 8 of 16 bits
        plain = Image.fromarray(grey.astype(np.uint8))
    elif plain.mode == "P" and "transparency" in plain.info:
        plain = plain.convert("RGBA")
    plain = plain.convert("RGB")
    for turn in turns:
        plain = plain.transpose(turn)
    return np.array(plain, dtype=np.uint8)  # (H, W, 3), writable copy


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def problem_of(path: Path) -> str | None:
    """Why a picture can not be used, as one sentence; None when it decodes."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return f"'{path}' can not be read: {error.strerror}."
    try:
        decode_bytes(raw, f"'{path}'", coarse=True)
    except DataError as error:
        return str(error)
    return None


SKIP_ADVICE = "Or leave such pictures out: --data.skip_broken true in training, --skip-broken in evaluation."


@dataclass(frozen=True)
class PictureFiles:
    """The pictures of N images as files, decoded when read.

    Attributes:
        files: N picture files.
        transform: from a decoded picture and a random generator (None: evaluation) to ``(3, H, W)``.
    """

    files: list[Path]
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, image: int) -> Picture:
        """Decode one picture, untransformed."""
        return decode(self.files[image])

    def problem(self, image: int) -> str | None:
        """Why one picture can not be used, as one sentence; None when it decodes."""
        return problem_of(self.files[image])

    def select(self, images: Sequence[int]) -> PictureFiles:
        """The source of a subset of the pictures; nothing is read."""
        return replace(self, files=[self.files[int(i)] for i in images])

    def with_transform(self, transform: Transform) -> PictureFiles:
        """The same pictures through another transform."""
        return replace(self, transform=transform)

    def read(self, images: Sequence[int], generators: Sequence[np.random.Generator] | None = None) -> Images:
        """Decode and transform a batch, in the order asked for.

        Args:
            images: positions.
            generators: one for each image: training draws; None: evaluation.

        Raises:
            DataError: a picture can not be decoded.
            ConfigError: no transform was chosen.
        """
        if self.transform is None:
            raise ConfigError("These pictures have no transform yet. Choose one with `with_transform(...)`.")
        if generators is not None and len(generators) != len(images):
            raise ConfigError(f"{len(generators)} generators were given for {len(images)} pictures. Expected one each.")
        draws: Sequence[np.random.Generator | None] = [None] * len(images) if generators is None else generators
        try:
            pixels = [self.transform(self.picture(int(i)), draw) for i, draw in zip(images, draws, strict=True)]
        except DataError as error:
            raise DataError(f"{error} {SKIP_ADVICE}") from None
        return Images(torch.stack(pixels) if pixels else torch.zeros(0, 3, 1, 1), None)  # (B, 3, H, W)


def random_square_ratio_crop(picture: Picture, draw: np.random.Generator) -> Picture:
    """Cut the same share q = 0.6 + 0.4 U(0, 1) of both sides at a uniform place."""
    H, W = picture.shape[:2]
    q = 0.6 + 0.4 * draw.random()
    h, w = max(1, int(H * q)), max(1, int(W * q))
    top = int(draw.integers(0, H - h)) if h < H else 0
    left = int(draw.integers(0, W - w)) if w < W else 0
    return picture[top : top + h, left : left + w]


def _stretch_to_square(
    picture: Picture, size: int, draw: np.random.Generator | None, *, bgr: bool
) -> Float[Tensor, "3 S S"]:
    """Random crop (training), bilinear stretch as OpenCV does it, random flip (training); values stay 0..255."""
    if draw is not None:
        picture = random_square_ratio_crop(picture, draw)
    channels = picture[..., ::-1] if bgr else picture
    values = torch.from_numpy(np.ascontiguousarray(channels, dtype=np.float32)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    square = torch.nn.functional.interpolate(
        values, size=(size, size), mode="bilinear", align_corners=False, antialias=False
    )[0]  # half-pixel centres, no antialiasing: OpenCV's INTER_LINEAR
    return square.flip(-1) if draw is not None and draw.random() < 0.5 else square


@dataclass(frozen=True)
class DetectorTransform:
    """Input of backbones taken from a detector: stretched square, BGR, 0..255 minus the channel means.

    Source: VSE-infinity's raw-image path ("detector" backbones).
    """

    size: int

    def __call__(self, picture: Picture, draw: np.random.Generator | None = None) -> Float[Tensor, "3 S S"]:
        """Transform one picture."""
        square = _stretch_to_square(picture, self.size, draw, bgr=True)
        return square - torch.tensor(DETECTOR_MEAN_BGR)[:, None, None]


@dataclass(frozen=True)
class ImagenetTransform:
    """Input of ImageNet backbones on the same path: stretched square, RGB in 0..1, ImageNet mean and deviation.

    Source: VSE-infinity's raw-image path (all backbones but "detector").
    """

    size: int

    def __call__(self, picture: Picture, draw: np.random.Generator | None = None) -> Float[Tensor, "3 S S"]:
        """Transform one picture."""
        return _normalise(_stretch_to_square(picture, self.size, draw, bgr=False), IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class VitTransform:
    """Input of vision transformers: bicubic resize to a square; training cuts a random rectangle first.

    Source: the raw-image path of LAPS and SCTA.
    """

    size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, picture: Picture, draw: np.random.Generator | None = None) -> Float[Tensor, "3 S S"]:
        """Transform one picture."""
        if draw is not None:
            top, left, h, w = self._rectangle(picture.shape[0], picture.shape[1], draw)
            picture = picture[top : top + h, left : left + w]
        resized = Image.fromarray(np.ascontiguousarray(picture)).resize(
            (self.size, self.size), Image.Resampling.BICUBIC
        )
        values = torch.from_numpy(np.array(resized, dtype=np.float32)).permute(2, 0, 1).contiguous()  # (3, S, S)
        if draw is not None and draw.random() < 0.5:
            values = values.flip(-1)
        return _normalise(values, self.mean, self.std)

    def _rectangle(self, H: int, W: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
        """top, left, height, width: a share of the area in ``scale``, a log-uniform side ratio; else centred."""
        for _ in range(10):
            area = H * W * draw.uniform(*self.scale)
            ratio = math.exp(draw.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= W and 0 < h <= H:
                return int(draw.integers(0, H - h + 1)), int(draw.integers(0, W - w + 1)), h, w
        ratio = min(max(W / H, self.ratio[0]), self.ratio[1])
        w, h = min(W, max(1, round(H * ratio))), min(H, max(1, round(W / ratio)))
        return (H - h) // 2, (W - w) // 2, h, w


def _normalise(
    values: Float[Tensor, "3 S S"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "3 S S"]:
    """0..255 to 0..1, minus the mean, over the deviation."""
    return (values / 255.0 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
