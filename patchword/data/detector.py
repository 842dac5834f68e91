"""Object detectors of the DETR family as makers of region features: the last decoder state of the best queries.

Sources: Carion et al. 2020 (DETR), Meng et al. 2021 (Conditional DETR), Zhu et al. 2021 (Deformable DETR, in
transformers' plain torch form), Zhao et al. 2024 (RT-DETR). Models, weights and picture transforms are transformers'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from patchword.data.clip_files import READ_ERRORS, model_type, quiet, reachable
from patchword.data.pictures import Picture
from patchword.errors import CheckpointError, ConfigError

# model_type -> model class, picture transform without torchvision
DETECTORS = {
    "detr": ("DetrForObjectDetection", "DetrImageProcessorPil"),
    "conditional_detr": ("ConditionalDetrForObjectDetection", "ConditionalDetrImageProcessorPil"),
    "deformable_detr": ("DeformableDetrForObjectDetection", "DeformableDetrImageProcessorPil"),
    "rt_detr": ("RTDetrForObjectDetection", "RTDetrImageProcessorPil"),
}


class Detector:
    """A detector that gives, for each picture, the features and boxes of its best regions.

    Args:
        source: local folder in the form of ``save_pretrained``, or a name that transformers downloads.
        regions: R, regions of each picture; the queries with the highest class probability, the highest first.
        device: where it runs.

    Raises:
        CheckpointError: there is no such detector, or weights are missing.
        ConfigError: it has fewer queries than regions were asked for.
    """

    def __init__(self, source: str | Path, *, regions: int = 36, device: str = "cpu") -> None:
        import transformers
        from huggingface_hub.errors import StrictDataclassError

        self.source, self.regions = str(source), regions
        known = ", ".join(DETECTORS)
        if Path(source).is_dir() and model_type(Path(source)) not in DETECTORS:
            raise CheckpointError(
                f"'{source}' describes a {model_type(Path(source))!r} model. Expected a detector: one of {known}."
            )
        place = reachable(source)
        try:
            with quiet():
                config = transformers.AutoConfig.from_pretrained(place)
                if config.model_type not in DETECTORS:
                    raise CheckpointError(
                        f"'{source}' describes a {config.model_type!r} model. Expected a detector: one of {known}."
                    )
                model_class, transform_class = DETECTORS[config.model_type]
                kind: Any = getattr(transformers, model_class)
                model, found = kind.from_pretrained(place, output_loading_info=True, dtype="float32")
                self.transform: Any = getattr(transformers, transform_class).from_pretrained(place)
        except (*READ_ERRORS, StrictDataclassError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"'{source}' can not be loaded as a detector: {reason} Expected a local folder of one, or its name on "
                "the hub."
            ) from None
        missing = sorted(found["missing_keys"])
        if missing:
            raise CheckpointError(f"'{source}' lacks {len(missing)} weights, the first is `{missing[0]}`.")
        self.has_no_object = config.model_type == "detr"
        self.model: Any = model.to(device).float().eval()
        queries = int(config.num_queries)
        if not 0 < regions <= queries:
            raise ConfigError(f"`regions` is {regions}. This detector has {queries} queries: ask for 1 to {queries}.")

    @property
    def width(self) -> int:
        """F, the width of its features."""
        return int(self.model.config.d_model)

    @torch.no_grad()
    def regions_of(self, pictures: Sequence[Picture]) -> tuple[Float[Tensor, "N R F"], Float[Tensor, "N R 4"]]:
        """Features, and boxes x1, y1, x2, y2 in 0..1, of decoded pictures.

        Pictures of one size after the transform run together, others apart: nothing is padded, so no picture's regions
        depend on its company.
        """
        given = [self.transform(Image.fromarray(picture), return_tensors="pt") for picture in pictures]
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, one in enumerate(given):
            groups.setdefault(tuple(one["pixel_values"].shape), []).append(k)
        features = torch.zeros(len(pictures), self.regions, self.width)
        boxes = torch.zeros(len(pictures), self.regions, 4)
        for members in groups.values():
            names = [name for name in ("pixel_values", "pixel_mask") if name in given[members[0]]]
            batch = {name: torch.cat([given[k][name] for k in members]).to(self.model.device) for name in names}
            found = self.model(**batch)
            best = self.probabilities(found.logits).topk(self.regions, dim=1).indices  # (n, R)
            rows = torch.arange(len(members), device=best.device)[:, None]
            features[members] = found.last_hidden_state[rows, best].float().cpu()
            boxes[members] = corners(found.pred_boxes[rows, best].float().cpu())
        return features, boxes

    def probabilities(self, logits: Float[Tensor, "N Q K"]) -> Float[Tensor, "N Q"]:
        """Probability of the likeliest class of every query: softmax with "no object" in DETR, sigmoid elsewhere."""
        found = logits.softmax(-1)[..., :-1] if self.has_no_object else logits.sigmoid()
        return found.amax(-1)

    def fingerprint(self) -> str:
        """What tells one extraction from another: a hash of the weights, the transform and the number of regions."""
        settings = {"transform": self.transform.to_dict(), "regions": self.regions}
        found = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()


def corners(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Centre x, centre y, width, height to x1, y1, x2, y2, cut to the picture.

    Example:
        >>> corners(torch.tensor([0.5, 0.5, 0.5, 2.0])).tolist()
        [0.25, 0.0, 0.75, 1.0]
    """
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1)
