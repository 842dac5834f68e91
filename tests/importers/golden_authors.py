"""Checkpoints as the authors' code saves them, made from golden cases of VSE-infinity and CHAN."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from patchword.importers.checkpoint import ImportResult, import_checkpoint


class Authors:
    """A checkpoint as the authors' code saves it, made from a golden case."""

    def __init__(self, golden: Path, method: str, case: str) -> None:
        self.method = method
        self.tensors = load_file(golden / f"{case}.safetensors")
        self.config = json.loads((golden / f"{case}.json").read_text())["config"]
        self.state = {k.removeprefix("state_dict/"): v for k, v in self.tensors.items() if k.startswith("state_dict/")}
        self.prefix = ""
        self.options: dict[str, Any] = dict(self.config)

    def content(self) -> dict[str, Any]:
        items: list[dict[str, Tensor]] = [
            {self.prefix + k.removeprefix(tower): v for k, v in self.state.items() if k.startswith(tower)}
            for tower in ("img_enc.", "txt_enc.")
        ]
        items += [{}, {}] if self.method == "chan" else []
        opt = argparse.Namespace(**self.options)
        return {"epoch": 7, "model": items, "best_rsum": 512.5, "opt": opt, "Eiters": 123}

    def save(self, path: Path) -> Path:
        torch.save(self.content(), path)
        return path

    def bring(self, folder: Path, **more: Any) -> ImportResult:
        return import_checkpoint(self.method, self.save(folder / "model_best.pth"), folder / "ours", **more)

    @property
    def scores(self) -> Tensor:
        return self.tensors["sims" if self.method == "vse_inf" else "sims/selected"]
