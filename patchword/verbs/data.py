"""Verbs that make and check data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional, Suppress

from patchword.errors import ConfigError
from patchword.verbs.options import Device, OptionalCount, OptionalText, OutPath, device_of, takes_overrides
from patchword.verbs.output import say, say_json
from patchword.verbs.sizes import OptionalSize, bytes_of


def scenes(folder: Positional[Path], train: int = 2000, dev: int = 250, test: int = 500, seed: int = 0) -> int:
    """Write the generated scenes data set in the layouts of real data.

    Args:
        folder: where to.
        train: training images.
        dev: development images.
        test: test images.
        seed: of everything drawn.
    """
    from patchword.data.scenes import write_scenes

    write_scenes(folder, train=train, dev=dev, test=test, seed=seed)
    say(f"wrote {train + dev + test:,} scenes to '{folder}'. Next: patchword train chan_scenes --data.root {folder}")
    return 0


@takes_overrides
def doctor(
    what: Positional[Literal["data", "recipe", "memory"]],
    path: Positional[Path],
    name: OptionalText = None,
    limit: OptionalSize = None,
    json: bool = False,
    overrides: Suppress[tuple[str, ...]] = (),
) -> int:
    """Check a data folder or a recipe, or find the batch that fits into memory.

    Args:
        what: ``data``, ``recipe``, or ``memory`` of a recipe's training steps, which are taken, not guessed.
        path: the folder; or the recipe, by file or name, with dotted options (--data.root DIR).
        name: known data set to compare with: f30k, coco, flickr8k.
        limit: memory: what training may take (24GiB); the device's, or this machine's, by default.
        json: print JSON.
        overrides: dotted options; of a data folder, --data.columns '{image: NAME, caption: NAME}' alone.
    """
    if limit is not None and what != "memory":
        raise ConfigError(f"--limit is of `doctor memory`, not of `doctor {what}`. Remove it.")
    if name is not None and what != "data":
        raise ConfigError(f"--name is of `doctor data`, not of `doctor {what}`. Remove it; a recipe has --data.name.")
    if what == "data":
        from patchword.data.doctor import check_data

        report = check_data(path, name=name, columns=_columns(overrides))
        say(report.to_json() if json else "\n".join(report.lines()))
        return 0 if report.usable else 2
    from patchword.recipe import load_recipe, to_yaml

    recipe = load_recipe(path, list(overrides))
    if what == "memory":
        from patchword.train.memory import step_memory

        found = step_memory(recipe, limit_gib=None if limit is None else bytes_of(limit) / (1 << 30))
        say_json(found.to_json()) if json else say("\n".join(found.lines()))
        return 0 if found.largest is not None else 2
    if json:
        say_json(recipe.dump())
    else:
        say(f"'{path}' is a valid recipe of {recipe.method}. With all defaults:\n\n{to_yaml(recipe.dump())}")
    return 0


def _columns(overrides: tuple[str, ...]) -> dict[str, str] | None:
    """The column names among dotted options.

    Raises:
        ConfigError: there are other options, or they name no columns.
    """
    from patchword.config import parse_overrides

    given = parse_overrides(overrides)
    data = given.pop("data", {})
    columns = data.pop("columns", None) if isinstance(data, dict) else None
    if given or data:
        raise ConfigError(
            f"'{overrides[0]}' changes a recipe; `doctor data` reads a folder, and of dotted options --data.columns. "
            "Remove it."
        )
    if columns is not None and not (isinstance(columns, dict) and all(isinstance(v, str) for v in columns.values())):
        raise ConfigError(
            f"`data.columns` is {columns!r}. Expected our names of columns and the file's: {{image: NAME}}."
        )
    return columns


def extract(
    what: Positional[Literal["clip", "regions"]],
    folder: Positional[Path],
    out: OutPath = None,
    clip: OptionalText = None,
    detector: OptionalText = None,
    regions: int = 36,
    splits: tuple[str, ...] = (),
    name: OptionalText = None,
    batch: OptionalCount = None,
    device: Device = "auto",
    again: bool = False,
    json: bool = False,
) -> int:
    """Compute what a method reads from pictures and captions with another model.

    Args:
        what: ``clip`` (AAHR): CLIP's global vectors, <split>_ims_clip.npy and <split>_caps_clip.npy;
            ``regions``: region features and boxes of a detector, in SCAN's layout.
        folder: data folder with pictures near (regions: or pictures alone); an interrupted run goes on.
        out: regions: the folder to write.
        clip: local folder of a CLIP model, or its name on the hub (published: laion/CLIP-ViT-B-32-laion2B-s34B-b79K).
        detector: regions: local folder of a DETR, Conditional DETR, Deformable DETR or RT-DETR, or its name on the hub.
        regions: regions of each picture.
        splits: which splits; all that are there by default.
        name: data set name, when the folder holds several.
        batch: pictures or captions at a time; 64 for clip, 8 for regions.
        device: where the model runs: auto, cpu or cuda:0.
        again: also make complete files again.
        json: print JSON.
    """
    if what == "regions":
        if clip is not None or detector is None or out is None:
            raise ConfigError("regions are made by a detector: patchword extract regions DIR -o OUT --detector MODEL")
        return _regions(folder, out, detector, regions, splits, name, batch or 8, device_of(device), again, json)
    if clip is None or detector is not None or out is not None:
        raise ConfigError("CLIP's vectors lie beside the captions: patchword extract clip DIR --clip MODEL")
    from rich.console import Console

    from patchword.data.clip_features import extract_clip

    written = extract_clip(
        folder,
        clip,
        splits=splits,
        name=name,
        batch=batch or 64,
        device=device_of(device),
        again=again,
        console=Console(stderr=True),
    )
    if json:
        say_json([vars(one) for one in written])
        return 0
    for one in written:
        how = "was complete and is kept" if one.computed == 0 else f"{one.computed:,} computed now"
        say(f"'{one.path}': {one.rows:,} rows of width {one.width}, {how}")
    return 0


def _regions(
    folder: Path,
    out: Path,
    detector: str,
    regions: int,
    splits: tuple[str, ...],
    name: str | None,
    batch: int,
    device: str,
    again: bool,
    json: bool,
) -> int:
    """The action ``regions`` of ``extract``."""
    from rich.console import Console

    from patchword.data.extract_regions import extract_regions

    written = extract_regions(
        folder,
        out,
        detector,
        regions=regions,
        splits=splits,
        name=name,
        batch=batch,
        device=device,
        again=again,
        console=Console(stderr=True),
    )
    if json:
        say_json([vars(one) for one in written])
        return 0
    for one in written:
        how = f"{one.computed:,} computed now" if one.computed else "none had to be computed"
        left = f"; {one.skipped:,} pictures left out, see {one.split}_skipped.jsonl" if one.skipped else ""
        say(f"'{one.folder}' {one.split}: {one.images:,} images x {one.regions} regions x {one.width}, {how}{left}")
    return 0
