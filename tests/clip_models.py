"""Tiny random checkpoints of CLIP, SigLIP and SigLIP 2 in the form of ``save_pretrained``, made on the spot."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
CONTEXT = 20
FAMILIES = ("clip", "siglip", "siglip2")


def write_checkpoint(folder: Path, family: str = "clip", *, seed: int = 0) -> Path:
    """A checkpoint of one family: weights away from their start, a vocabulary of letters, a picture transform."""
    import transformers

    from patchword.data.clip_files import quiet

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    with quiet():
        sizes = {"clip": _clip_tokenizer, "siglip": _siglip_tokenizer, "siglip2": _siglip2_tokenizer}[family](folder)
        text = {**TOWER, "max_position_embeddings": CONTEXT, **sizes}
        if family == "clip":
            vision: dict[str, Any] = {**TOWER, "image_size": 16, "patch_size": 4}
            config: Any = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
            model: Any = transformers.CLIPModel(config)
            transform: Any = transformers.CLIPImageProcessorPil(
                size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.3]
            )
        elif family == "siglip":
            vision = {**TOWER, "image_size": 16, "patch_size": 4}
            model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
            transform = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
        else:
            vision = {**TOWER, "patch_size": 4, "num_patches": 16}
            model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
            transform = transformers.Siglip2ImageProcessorPil(patch_size=4, max_num_patches=20)
        with torch.no_grad():
            for parameter in model.parameters():  # biases start at zero, which would hide those that are left out
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model.save_pretrained(folder)
        transform.save_pretrained(folder)
    return folder


def _clip_tokenizer(folder: Path) -> dict[str, int]:
    import transformers

    letters = string.ascii_lowercase + ".,!?"
    tokens = [*letters, *(f"{c}</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    ids = {token: k for k, token in enumerate(tokens)}
    transformers.CLIPTokenizer(vocab=ids, merges=[("r", "e"), ("re", "d</w>")]).save_pretrained(folder)
    return {"vocab_size": len(ids), "bos_token_id": len(ids) - 2, "eos_token_id": len(ids) - 1}


def _siglip_tokenizer(folder: Path) -> dict[str, int]:
    """As on the hub: a tokenizer.json beside a class that needs sentencepiece, and no mask among the inputs."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokens = ["<unk>", "</s>", "▁", "▁red", *string.ascii_lowercase]
    scores = [(token, -float(k)) for k, token in enumerate(tokens)]
    backend: Any = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast: Any = transformers.PreTrainedTokenizerFast
    marks = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    fast(tokenizer_object=backend, model_input_names=["input_ids"], **marks).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "SiglipTokenizer"}))
    return {"vocab_size": len(tokens), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def _siglip2_tokenizer(folder: Path) -> dict[str, int]:
    import transformers

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase, "re", "red"]
    ids = {token: k for k, token in enumerate(tokens)}
    made: Any = transformers.Siglip2Tokenizer(
        vocab=ids, merges=[("r", "e"), ("re", "d")], add_bos_token=False, add_eos_token=True, padding_side="right"
    )
    made.save_pretrained(folder)
    return {"vocab_size": len(ids), "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
