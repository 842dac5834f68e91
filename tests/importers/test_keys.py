"""What messages call a weight: the authors' key of our name."""

from collections.abc import Callable
from functools import partial

import pytest

from patchword.importers import aahr, cefg, chan, esl, hrem, scta, vse_inf

BACKBONE = "image.patches.backbone."
OLD, NEW = "img_enc.visual_encoder.encoder.layer.3.", "img_enc.visual_encoder.layers.3."


@pytest.mark.parametrize(
    ("origins", "name", "keys"),
    [
        (vse_inf.origins, "image.fc.bias", ["img_enc.image_encoder.fc.bias", "img_enc.fc.bias"]),
        (vse_inf.origins, f"{BACKBONE}layer2.0.bn1.bias", ["img_enc.backbone.base.5.0.bn1.bias"]),
        (chan.RULES.origins, "image.fc.bias", ["img_enc.fc.bias"]),
        (chan.RULES.origins, "image.context.c_fc.bias", ["img_enc.feedforward.mlp.c_fc.bias"]),
        (aahr.origins, "text_head.guide_a.bias", ["txt_enc.fc_clip.fc.bias"]),
        (aahr.origins, "image_head.pool.key.weight", ["img_enc.mha_pool.key.0.weight"]),
        (hrem.RULES.origins, "image.mlp.norm.running_var", ["img_enc.fc.mlp.bns.0.running_var"]),
        (
            cefg.rules_of({"sim_enc.rcr_modules.2.rcr_matrix_w.bias": None}).origins,  # type: ignore[dict-item]
            "similarity.regulators.1.modulation.0.bias",
            ["sim_enc.rcr_modules.1.rcr_matrix_w.0.bias"],
        ),
        (
            scta.origins,
            f"{BACKBONE}layers.3.attention.q_proj.bias",
            [f"{OLD}attention.attention.query.bias", f"{NEW}attention.q_proj.bias"],
        ),
        (scta.origins, "patch_condenser.scale", ["cross_net.img_aggr_net.scale", "cross_net.aggr_net.scale"]),
        (partial(esl.origins, rules=esl.ADAPTIVE), "text_pyramid.masks.0", [f"{esl.LEVELS}text_levels.masks_1.weight"]),
        (partial(esl.origins, rules=esl.HEURISTIC), "forms.gains.2", [f"{esl.CALCULATOR}lynorm_2.weight"]),
        (partial(esl.origins, rules=esl.ADAPTIVE), "forms.threshold", []),
    ],
)
def test_the_authors_keys_of_a_name(origins: Callable[[str], list[str]], name: str, keys: list[str]) -> None:
    assert origins(name) == keys
