"""The benchmarks beside the named protocols, by name: ``patchword evaluate RUN --protocol cxc`` and its kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from patchword.data.table import Split
from patchword.errors import ConfigError, DataError
from patchword.evaluate.benchmark import Benchmark
from patchword.evaluate.choices import evaluate_choices, read_choices, read_sugarcrepe
from patchword.evaluate.cxc import evaluate_cxc
from patchword.evaluate.cxc_files import read_cxc
from patchword.evaluate.eccv import evaluate_eccv, read_eccv
from patchword.evaluate.encoding import batch_of, encode_split
from patchword.evaluate.ensemble import check_fusion
from patchword.evaluate.gallery import make_gallery
from patchword.evaluate.intra import How, intra_scores
from patchword.evaluate.members import Member, Source, is_saved, join_members, open_members
from patchword.evaluate.model_notes import model_notes
from patchword.evaluate.on_split import ModelOnSplit
from patchword.evaluate.pmrp import evaluate_pmrp, find_instances, read_instances, require_instances
from patchword.evaluate.rococo import evaluate_attack, find_attacks, read_attack, rococo_report
from patchword.evaluate.rococo_images import evaluate_mixed
from patchword.evaluate.scores_file import SavedScores
from patchword.evaluate.setting import Setting, open_with
from patchword.loading import load
from patchword.model import Model

# name -> whether a score matrix is enough
BENCHMARKS = {
    "cxc": True,
    "eccv": True,
    "pmrp": True,
    "sugarcrepe": False,
    "rococo": False,
    "rococo-images": False,
    "choices": False,
}
# Names of splits whose rows CxC rates under `val`; without ids, a matrix is taken for the test split.
CXC_SPLIT = {"dev": "val", "val": "val"}
NEED_NO_FILES = ("eccv", "rococo-images")  # a package holds them, or there are none


def evaluate_benchmark(
    protocol: str,
    runs: Source | Sequence[Source],
    data: Path | str | Split | None = None,
    setting: Setting | None = None,
    *,
    annotations: Path | str | None = None,
    caption_ids: Path | Sequence[str] | None = None,
    intra: How = "auto",
    fusion: str = "mean",
    weights: Sequence[float] | None = None,
) -> Benchmark:
    """Evaluate on one of the benchmarks.

    Args:
        protocol: ``cxc``, ``eccv``, ``pmrp``, ``sugarcrepe``, ``rococo``, ``rococo-images`` or ``choices``.
        runs: a run, checkpoint or model; for the first three also a score file, or several that are fused.
        data: data folder or open split, with the images that the benchmark names.
        setting: how the data and runs are opened and scored; captions and pictures of the benchmark's own are encoded
            in its batches too.
        annotations: folder or file of the benchmark. ECCV-Caption is found in the package ``eccv_caption`` too.
        caption_ids: COCO's number of every caption (``cxc`` and ``eccv``), see ``gallery.make_gallery``.
        intra: how images and captions are compared among themselves (``cxc``), see ``intra.intra_scores``.
        fusion, weights: of an ensemble.

    Raises:
        ConfigError: an unknown name, a missing folder, a score matrix where a model is needed, ``fusion`` or
            ``weights`` for one run.
        DataError, ScoreError: annotations are missing or do not fit.
    """
    if protocol not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark '{protocol}'. Expected one of: {', '.join(BENCHMARKS)}.")
    sources = [runs] if isinstance(runs, Path | str | Model | SavedScores) else list(runs)
    setting = setting if setting is not None else Setting()
    check_fusion(len(sources), fusion, weights)
    if setting.eval_batch is not None and all(is_saved(one) for one in sources):
        raise ConfigError(
            f"`eval_batch` is {setting.eval_batch}, and nothing is encoded: the scores are saved. Leave it out."
        )
    folder = None if annotations is None else Path(annotations)
    if folder is None and protocol not in NEED_NO_FILES:
        raise ConfigError(
            f"--protocol {protocol} needs its files. Add --annotations PATH (docs/evaluate.md says which)."
        )
    if folder is not None and protocol == "rococo-images":
        raise ConfigError("--protocol rococo-images mixes the pictures of --data itself. Leave out --annotations.")
    if folder is not None and not folder.exists():
        raise DataError(f"'{folder}' is missing. Expected the files of {protocol}.")
    if BENCHMARKS[protocol]:
        if protocol == "cxc" and len(sources) == 1 and not is_saved(sources[0]):
            if data is None:
                label = getattr(sources[0], "label", sources[0])
                raise ConfigError(f"'{label}' is a run and needs its data. Add --data DIR.")
            model = _load(sources[0], setting.device)
            opened = open_with(model, data, setting)
            return _cxc_of_model(model, opened, folder, caption_ids, intra, setting)
        members = open_members(sources, data, setting)
        member = members[0] if len(members) == 1 else join_members(members, fusion, weights)
        return _of_scores(protocol, member, folder, setting.split, caption_ids)
    if len(sources) != 1 or is_saved(sources[0]) or data is None:
        raise ConfigError(
            f"--protocol {protocol} scores captions or images of its own: give one run and the data folder that holds "
            f"the images (patchword evaluate RUN --data DIR --protocol {protocol}"
            f"{'' if protocol in NEED_NO_FILES else ' --annotations PATH'})."
        )
    model = _load(sources[0], setting.device)
    opened = open_with(model, data, setting)
    batch = batch_of(model, setting.eval_batch)
    scorer = ModelOnSplit(model, opened, setting.console, batch)
    found = evaluate_mixed(scorer).report() if folder is None else _of_model(protocol, scorer, folder)
    return replace(found, model=model.label, notes=(*found.notes, *model_notes(model, opened, batch)))


def _load(source: Source, device: str) -> Model:
    return source if isinstance(source, Model) else load(source, device=device)  # type: ignore[arg-type]


def _of_model(name: str, scorer: ModelOnSplit, place: Path) -> Benchmark:
    """Benchmarks with captions of their own."""
    if name == "rococo":
        return rococo_report([evaluate_attack(scorer, read_attack(path)) for path in find_attacks(place)])
    if name == "sugarcrepe":
        return evaluate_choices(scorer, name, read_sugarcrepe(place)).report()
    return evaluate_choices(scorer, *read_choices(place)).report()


def _of_scores(
    name: str, member: Member, folder: Path | None, split: str, caption_ids: Path | Sequence[str] | None
) -> Benchmark:
    """Benchmarks that a score matrix is enough for."""
    found = _from_matrix(name, member, folder, split, caption_ids)
    label = " ".join(part for part in (member.saved.provenance.method, member.name) if part)
    warnings, notes = (*member.saved.warnings, *found.warnings), (*found.notes, *member.saved.notes)
    return replace(found, model=label, warnings=warnings, notes=notes)


def _from_matrix(
    name: str, member: Member, folder: Path | None, split: str, caption_ids: Path | Sequence[str] | None
) -> Benchmark:
    """The same, before the member is named."""
    saved = member.saved
    if member.split is not None and member.model is None:
        member.evaluate("generic")  # refuses scores of other images or captions than those of the split
    names = member.split.image_ids if member.split is not None else saved.image_ids
    where = member.split.name if member.split is not None else saved.provenance.split or split
    matrix = saved.scores
    if name == "pmrp":
        instances = require_instances(folder or Path())
        if names is None:
            raise ConfigError(
                f"'{member.name}' has no image ids. Save the scores with --save-scores, which keeps them."
            )
        return evaluate_pmrp(matrix, saved.owner, names, read_instances(instances)).report()
    n_images = int(matrix.shape[0])
    if name == "cxc":
        lists = read_cxc(folder or Path(), images=names or (), split=None if names else CXC_SPLIT.get(where, "test"))
        gallery = make_gallery(
            saved.owner, n_images, image_ids=names, caption_ids=caption_ids, image_of=lists.image_of, folder=folder,
            split=where,
        )  # fmt: skip
        return evaluate_cxc(matrix, gallery, lists).report()
    eccv = read_eccv(folder)
    gallery = make_gallery(
        saved.owner, n_images, image_ids=names, caption_ids=caption_ids, image_of=eccv.image_of, folder=eccv.folder,
        split=where,
    )  # fmt: skip
    report = evaluate_eccv(matrix, gallery, eccv).report()
    path = find_instances(folder)
    if path is not None:
        more = evaluate_pmrp(matrix, saved.owner, gallery.image_ids, read_instances(path)).report()
        tables = (*report.tables, *((("pmrp", *head[1:]), rows) for head, rows in more.tables))
        numbers = {**report.numbers, "pmrp": more.numbers}
        return replace(report, tables=tables, numbers=numbers, notes=(*report.notes, *more.notes))
    return replace(report, notes=(*report.notes, "PMRP left out: no instances_val2014.json in the annotations"))


def _cxc_of_model(
    model: Model,
    opened: Split,
    folder: Path | None,
    caption_ids: Path | Sequence[str] | None,
    intra: How,
    setting: Setting,
) -> Benchmark:
    """CxC with scores among images and among captions. Everything that can be refused is, before anything is scored."""
    lists = read_cxc(folder or Path(), images=opened.image_ids)
    gallery = make_gallery(
        np.asarray(opened.owner), opened.n_images, image_ids=opened.image_ids, caption_ids=caption_ids,
        image_of=lists.image_of, folder=folder, split=opened.name,
    )  # fmt: skip
    batch = batch_of(model, setting.eval_batch)
    images, captions = encode_split(model, opened, batch=batch, console=setting.console)
    among_images = among_captions = None
    notes = model_notes(model, opened, batch)
    try:
        among_images, among_captions = intra_scores(
            model.method,
            images,
            captions,
            intra,
            console=setting.console,
            memory=setting.memory,
            folder=setting.resume,
        )
    except ConfigError as error:
        if intra != "auto":
            raise
        notes += (str(error),)  # the directions between images and captions need no such scores
    scores = setting.score(model, images, captions)
    result = evaluate_cxc(scores, gallery, lists, among_images=among_images, among_captions=among_captions)
    report = result.report()
    return replace(report, model=model.label, notes=(*report.notes, *notes))
