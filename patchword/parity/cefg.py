"""Golden cases of CEFG: forward with its intermediate values, training forward, losses, gradients, buffers, one step.

Nothing depends on the sizes of a case; whatever tensors it holds decide what is compared.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from patchword.config import TrainConfig
from patchword.encoders.bigru import BigruConfig
from patchword.importers import cefg
from patchword.importers.keys import Imported, KeyRules
from patchword.layers.reasoning import Regulator
from patchword.methods.base import Step, ranking_loss
from patchword.methods.cefg import Cefg
from patchword.parity.cases import Case, Ledger
from patchword.scoring.matrix import pair_scores
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Encoded, Images, real_slots

STATE = "state."


def compare(case: Case) -> Ledger:
    """Compare a model case in full."""
    return Comparison(case).run()


def tolerance(case: Case, kind: str) -> dict[str, float]:
    """Tolerance that the case states for ``eval`` or ``grad`` values; 1e-5 absolute and 1e-4 relative otherwise."""
    stated = str(case.fields.get("tolerances", {}).get(kind, ""))
    found = dict(re.findall(r"(rtol|atol)\s*=?\s*([0-9.eE+-]+)", stated))
    return {"rtol": float(found.get("rtol", 1e-4)), "atol": float(found.get("atol", 1e-5))}


class Comparison:
    """One case with its imported model."""

    def __init__(self, case: Case) -> None:
        self.case, self.tensors, self.ledger = case, case.tensors, Ledger(case)
        options = case.config
        if "bert" in options:
            options["bert_config"] = {**options["bert"], "hidden_act": options.get("hidden_act", "gelu")}
        self.state = case.state(STATE)
        self.rules: KeyRules = cefg.rules_of(self.state)
        with torch.random.fork_rng():
            self.imported: Imported = cefg.import_exact(self.state, options)
        assert isinstance(self.imported.method, Cefg)
        self.method = self.imported.method
        self.options = options
        values = self.ledger.input("in.images")
        counts = torch.full((len(values),), values.shape[1])
        extra = {self.method.image_extras[0]: self.ledger.input("in.adj")}
        self.images = Images(values, counts, None, extra)
        self.captions = Captions(self.ledger.input("in.captions"), self.ledger.whole("in.lengths"))

    def run(self) -> Ledger:
        """All comparisons.

        Raises:
            KeyError: the case lacks a tensor that every case of its kind has.
        """
        ledger = self.ledger
        needed = ["eval.sims"] + (["train.sims", "train.loss"] if self.options.get("mode") == "train" else [])
        for name in needed:
            self.tensors[name]
        ledger.use(*(STATE + k for k in self.imported.used), "weights", "key_guide", "tolerances")
        self.check_fields()
        with torch.no_grad():
            self.forward()
            if "in.amr_tokens" in self.tensors:
                self.graphs()
        if "train.sims" in self.tensors:
            self.training()
        for key in self.imported.dead:
            ledger.excuse(STATE + key, "dead in the authors' code: stored, never used")
        return ledger

    def near(self, name: str, found: Tensor, note: str = "", kind: str = "eval") -> None:
        """Compare a tensor of the case, if it has it."""
        if name in self.tensors:
            self.ledger.close(name, found, self.tensors[name], note=note, **tolerance(self.case, kind))

    def check_fields(self) -> None:
        """What the JSON says about lengths and shapes."""
        fields = self.case.fields
        for key, name in (("lengths", "in.lengths"), ("amr_lengths", "in.amr_lengths")):
            if fields.get(key) is not None:
                self.ledger.exact(key, self.tensors[name].tolist(), fields[key])
            self.ledger.use(key)
        listed = {name: about[0] for name, about in fields.get("tensors", {}).items() if isinstance(about, list)}
        for key, found in self.sizes().items():
            if key in self.options:
                self.ledger.exact(f"config.{key}", found, self.options[key])
        if listed:
            shapes = {name: list(self.tensors[name].shape) if name in self.tensors else None for name in listed}
            self.ledger.exact("tensors", shapes, listed)

    def sizes(self) -> dict[str, object]:
        """What our model says of itself, under the authors' names."""
        config = self.method.config
        found: dict[str, object] = {
            "img_dim": config.image.width,
            "embed_size": config.joint_dim,
            "sim_dim": config.sim_dim,
            "n_region": config.regions,
            "num_partial": config.neighbours,
            "rcr_step": config.refinements,
            "init_smooth": config.sharpness,
            "module_name": config.head.upper(),
            "max_violation": self.method.loss.negatives_after == "hardest",
        }
        if config.head == "sgr":
            found["sgr_step"] = config.graph_steps
        if isinstance(config.text, BigruConfig):
            found |= {"vocab_size": config.text.vocab_size, "word_dim": config.text.word_dim}
            found |= {"num_layers": config.text.layers, "bi_gru": config.directions == 2}
        return found

    def forward(self) -> None:
        """Evaluation: every stage of the image branch, words, scores, and the passes of single captions."""
        method = self.method
        regions, _ = method.image.regions(self.images)
        self.near("eval.img_emb", regions)
        self.words("eval.cap_emb", self.captions.tokens, self.captions.lengths)
        found = method.image(self.images, method.adjacency(self.images))
        self.near("eval.region_logits", found.logits)
        self.near("eval.img_global", found.overall)
        self.near("eval.img_global_norm", found.length)
        self.near("eval.img_context_ratio", found.neighbours / found.length[..., None])
        self.near("eval.img_context", found.context)
        images, captions = method.encode_images(self.images), method.encode_captions(self.captions)
        self.near("eval.sims", method.score(images, captions))
        self.near("eval.sims", pair_scores(method, images, captions), "many captions at once")
        numbers = {int(m.group(1)) for name in self.tensors if (m := re.match(r"eval\.caption(\d+)\.", name))}
        for number in sorted(numbers):
            self.passes(number, images, captions)

    def words(self, name: str, tokens: Tensor, lengths: Tensor) -> None:
        """Word vectors, padded ones included where the tower gives them a meaning.

        A GRU's padding is zero. BERT's may be anything and is no part of the result; it is compared when it is
        evidently the same computation.
        """
        if name not in self.tensors:
            return
        real = real_slots(lengths, tokens.shape[1])
        found, expected = self.method.words(tokens, lengths).padded()[0], self.tensors[name][:, : tokens.shape[1]]
        found = nn.functional.pad(found, (0, 0, 0, tokens.shape[1] - found.shape[1]))
        if "text.embed.weight" in self.method.state_dict():
            self.near(name, nn.functional.pad(found, (0, 0, 0, self.tensors[name].shape[1] - found.shape[1])))
            return
        close = tolerance(self.case, "eval")
        self.ledger.close(name, found[real], expected[real], note="real words", **close)
        raw = self.method.text(tokens, lengths)
        padding = nn.functional.normalize(raw, dim=-1) if self.method.config.unit_words else raw
        if (padding - expected)[~real].abs().sum() < 1e-2 * float((~real).sum()):
            self.ledger.close(name, padding[~real], expected[~real], note="padding", **close)

    def passes(self, number: int, images: Encoded, captions: Encoded) -> None:
        """What happens to one caption against every image."""
        name, method = f"eval.caption{number}.", self.method
        caption = captions.slice(number, number + 1).vectors
        nodes, found = method.nodes(images, caption)
        modulation: Tensor | None = None
        for k, (modulated, sharpness) in enumerate(zip(found.modulations, found.sharpnesses, strict=True)):
            if modulated is None:  # never read: computed from weights that the model leaves out
                unread = self.unread_regulator(k)
                modulated = unread(found.similarities[k], modulation, sharpness)[0]
            modulation = modulated
            self.near(f"{name}matrix{k + 1}", modulated)
            self.near(f"{name}smooth{k + 1}", sharpness[..., None])
        self.near(f"{name}attended", found.attended)
        self.near(f"{name}sim_loc", nodes[:, 1:])

    def unread_regulator(self, k: int) -> Regulator:
        """Refinement k with the modulation that the authors' code computes in vain."""
        config, prefix = self.method.config, f"sim_enc.rcr_modules.{k}."
        made = Regulator(config.joint_dim, config.sim_dim, modulates=True)
        names = {"rcr_matrix_w": "modulation", "rcr_smooth_w": "sharpness"}
        for theirs, ours in names.items():
            part = {
                key.removeprefix(prefix + theirs + "."): v for key, v in self.state.items() if prefix + theirs in key
            }
            getattr(made, ours).load_state_dict(part)
            self.ledger.use(*(f"{STATE}{prefix}{theirs}.{key}" for key in part))
        return made

    def graphs(self) -> None:
        """AMR tokens: without effect as released, and behind the words when they are joined."""
        tokens, lengths = self.ledger.input("in.amr_tokens"), self.ledger.whole("in.amr_lengths")
        self.words("eval.amr_emb", tokens, lengths)
        captions = Captions(self.captions.tokens, self.captions.lengths, {"graph": tokens, "graph_lengths": lengths})
        images, plain = self.method.encode_images(self.images), self.method.config
        if self.options.get("amr_released_is_noop"):
            self.near("eval.sims", self.method.score(images, self.method.encode_captions(captions)), "graphs given")
        self.method.config = plain.model_copy(update={"amr": "concat"})
        joined = self.method.encode_captions(captions)
        self.near("eval.sims_amr_concat", self.method.score(images, joined))
        self.near("eval.sims_amr_concat", pair_scores(self.method, images, joined), "many captions at once")
        self.method.config = plain

    def training(self) -> None:
        """A training forward, both losses, gradients, buffers, and one optimiser step."""
        method, options = self.method, self.options
        rate = float(options.get("dropout_in_train_case", 0.0))
        if rate:
            for name in self.tensors:
                if name.startswith(("train.", "grad.", "after_")):
                    self.ledger.excuse(name, f"made with dropout {rate}: its random draws are not in the case")
            return
        for module in method.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        start = {k: v.clone() for k, v in method.state_dict().items()}
        self.train_forward("many captions at once", fast=True)
        method.load_state_dict(start)
        method.zero_grad()
        self.train_forward("", fast=False)
        self.missing_gradients()
        parameters = [p for p in method.parameters() if p.grad is not None]
        if "grad_norm.total" in self.tensors:
            # Float32 leaves about 1e-5 of a norm of hundreds open (the authors' value differs from float64 by 5e-6 of
            # itself), so a large one is compared after scaling it down to 20.
            norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
            expected = self.tensors["grad_norm.total"]
            scale = (20 / expected.abs()).clamp_max(1.0).nan_to_num(1.0)  # NaN must stay what it is
            note = f"times {float(scale):.3g}"
            close = tolerance(self.case, "grad")
            self.ledger.close("grad_norm.total", norm * scale, expected * scale, note=note, **close)
        rate = float(options["learning_rate"])
        settings = TrainConfig(lr=rate, weight_decay=0.0, clip_norm=float(options["grad_clip"]))
        optimizer = build_optimizer(method, settings)
        clip_gradients(parameters, settings.clip_norm)
        optimizer.step()
        self.after_step(rate)

    def train_forward(self, note: str, *, fast: bool) -> None:
        """Scores, losses, gradients and buffers of one training step, without the step."""
        method = self.method.train()
        images, captions = method.encode_images(self.images), method.encode_captions(self.captions)
        scores = pair_scores(method, images, captions) if fast else method.score(images, captions)
        self.near("train.sims", scores, note)
        other = {"hardest": "all", "all": "hardest"}[method.loss.negatives_after]
        flipped = method.loss.model_copy(update={"negatives_after": other})
        total = ranking_loss(method.loss, scores, Step())
        self.near("train.loss", total[None], note)
        self.near("train.loss_other_violation", ranking_loss(flipped, scores, Step())[None], note)
        torch.autograd.backward(total)
        gradients = {name: p.grad for name, p in method.named_parameters()}
        for key, expected in self.case.state("grad.").items():
            ours = self.rules.rename(key)
            found = None if ours is None else gradients[ours]
            # Rounding is proportional to the largest entry of a gradient, so small entries are known to that only.
            close = tolerance(self.case, "grad")
            close["atol"] = max(close["atol"], 3e-5 * float(expected.abs().amax()))
            found = torch.zeros_like(expected) if found is None else found
            self.ledger.close(f"grad.{key}", found, expected, note=note, **close)
        with torch.no_grad():
            dead = dead_pooling_buffers(self.state, method.image.regions(self.images)[0])
        self.ours_or_dead("after_train.", method.state_dict(), {**self.state, **dead}, note)

    def ours_or_dead(self, prefix: str, ours: dict[str, Tensor], theirs: dict[str, Tensor], note: str = "") -> None:
        """Compare weights or buffers by the authors' names; what we leave out is looked up in ``theirs``."""
        for key in self.case.state(prefix):
            name = self.rules.rename(key)
            found = theirs[key] if name is None else ours[name]
            if name is None:
                self.ledger.use(*(STATE + k for k in self.state if k.split(".")[:2] == key.split(".")[:2]))
            self.near(prefix + key, found, note)

    def after_step(self, rate: float) -> None:
        """Weights after one step. Adam makes a step of ``rate`` of any gradient, of one that is only rounding too."""
        close = tolerance(self.case, "eval")
        parameters = dict(self.method.named_parameters())
        for key, expected in self.case.state("after_step.").items():
            ours = self.rules.rename(key)
            if ours is None:
                self.ledger.use(STATE + key)
                self.near(f"after_step.{key}", self.state[key], "dead: as it was")
                continue
            gradient = parameters[ours].grad
            found = parameters[ours].detach()
            moved = torch.zeros_like(expected) if gradient is None else gradient.abs()
            sure = moved >= 1e-4 * moved.max()
            note = "gradient is more than rounding"
            self.ledger.close(f"after_step.{key}", found[sure], expected[sure], note=note, **close)
            if not bool(sure.all()):
                loose = {**close, "atol": 2 * rate + close["atol"]}
                note = "gradient is rounding"
                self.ledger.close(f"after_step.{key}", found[~sure], expected[~sure], note=note, **loose)

    def missing_gradients(self) -> None:
        """Which parameters the loss does not reach."""
        listed = self.options.get("parameters_without_gradient")
        if listed is None:
            return
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        missing = {key for key in self.imported.dead if not key.endswith(buffers)}
        reached = {name for name, p in self.method.named_parameters() if p.grad is not None}
        missing |= {
            key for key in self.imported.used if not key.endswith(buffers) and self.rules.rename(key) not in reached
        }
        self.ledger.exact("config.parameters_without_gradient", sorted(missing), sorted(listed))


def dead_pooling_buffers(state: dict[str, Tensor], regions: Tensor) -> dict[str, Tensor]:
    """Batch-norm buffers after one training forward of the region pooling that the authors compute and overwrite."""
    moved: dict[str, Tensor] = {}
    for part, values in (("local", regions), ("global", regions.mean(1))):
        prefix = f"sim_enc.v_global_w.embedding_{part}."
        if f"{prefix}1.running_mean" not in state:
            continue
        norm = nn.BatchNorm1d(len(state[f"{prefix}1.running_mean"]))
        norm.load_state_dict(
            {k.removeprefix(f"{prefix}1."): v for k, v in state.items() if k.startswith(f"{prefix}1.")}
        )
        norm.train()(nn.functional.linear(values, state[f"{prefix}0.weight"], state[f"{prefix}0.bias"]))
        moved |= {f"{prefix}1.{k}": v for k, v in norm.state_dict().items()}
    return moved
