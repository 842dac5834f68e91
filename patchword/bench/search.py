"""How fast an index of any size answers, how much of the exhaustive ranking it finds, and what it costs to make.

The index is a real one: shards, catalog and shortlist on the disk. A query is encoded by a BiGRU of published size
(its text does not matter), then searched as ``Index.search`` does it, catalog included.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from patchword.bench.collection import Maker, Resampled, Statistics
from patchword.bench.kept import is_kept, note_kept, wanted_index
from patchword.bench.product import gemm_gflops
from patchword.bench.trained import require_together
from patchword.console import status_gib
from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.errors import ConfigError, DataError
from patchword.index.encode import to_rows
from patchword.index.records import NewItem
from patchword.index.scan import Seen
from patchword.index.writer import Writer
from patchword.loading import load
from patchword.methods.chan import Chan, ChanConfig
from patchword.model import Model
from patchword.retrieve.candidates import rule
from patchword.retrieve.collection import Collection
from patchword.retrieve.encoded_queries import ImageQueries
from patchword.retrieve.parallel import Cores
from patchword.shortlist.build import update_shortlist
from patchword.shortlist.pooled import ANCHORS, PoolSpec, pool_kind
from patchword.shortlist.view import open_shortlist
from patchword.store.catalog import Catalog
from patchword.store.layout import IndexFolder
from patchword.store.manifest import BackendChoice, Manifest, Pooling, write_manifest
from patchword.store.model_hash import stamp_of
from patchword.store.schema import connect_to_write, create
from patchword.store.shards import Array
from patchword.store.snapshot import open_snapshot
from patchword.threads import one_core
from patchword.types import Encoded

PATCH_BYTES = 2 * 36  # of one number of every patch
_BLOCK = 1024  # images made at a time
_TOGETHER = 20  # queries whose truth is found together
_WORDS = "a man in an orange hat is standing next to his brown dog"


@dataclass
class Setup:
    """What is measured.

    Attributes:
        model: that scores and encodes sentences.
        maker: of vector sets.
        spec: of the shortlist's vectors.
        about: fields of every line.
    """

    model: Model
    maker: Maker
    spec: PoolSpec
    about: dict[str, Any]


def bench_search(
    *,
    images: int = 10_000,
    run: Path | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    backend: str = "exact",
    queries: int = 200,
    truths: int = 60,
    candidates: int | None = None,
    folder: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Rates, times, recall, memory and disk of an index of 36 x 256 half-precision vectors.

    Args:
        images: in the index.
        run, data, dataset: a trained model and the data whose encoded sets are multiplied.
        backend: of the shortlist.
        queries: timed ones.
        truths: queries whose exhaustive ranking is computed.
        candidates: scored exactly; by default what the rule gives.
        folder: where the index is made and kept, or found from an earlier run; by default made for the moment.

    Raises:
        ConfigError: there is no room on the disk, a run was given without data or data without a run, or ``folder``
            holds anything but a finished index of these images, backend, model and data.
        DataError: images were added to the kept index, or removed from it.
    """
    require_together(run, data, dataset)
    with ExitStack() as stack:
        place = IndexFolder(
            Path(stack.enter_context(tempfile.TemporaryDirectory())) / "bench.index" if folder is None else folder
        )
        model = None if run is None else load(run)
        wanted = wanted_index(images, backend, model, data, dataset)
        found = is_kept(place, wanted)
        about = {"images": images, "sets": "statistics" if run is None else str(run)}
        setup = make_setup(place.path.parent, model, data, dataset, about)
        if not found:
            line = {**setup.about, "what": "build", **build(place, setup, images, backend)}
            note_kept(place, wanted)
            yield line
        yield from measure(place, setup, queries, truths, candidates)


def make_setup(near: Path, model: Model | None, data: Path | None, dataset: str | None, about: dict[str, Any]) -> Setup:
    """The model, which is made ``near`` the index unless a trained one is given, and the maker of sets."""
    about = {"bench": "search", "threads": torch.get_num_threads(), **about}
    if model is None or data is None:
        maker: Maker = Statistics()
        words = maker.captions(ANCHORS).vectors
        anchors = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(0))[:ANCHORS]]
        spec = PoolSpec(Pooling(kind="anchors", width=ANCHORS, source=maker.width), anchors)
        return Setup(random_chan(near, maker.width), maker, spec, about)
    from patchword.evaluate.opening import open_for

    opened = open_for(model, data, "test", name=dataset)
    encoded = model.encode_images(opened.require_images(), extras=opened.image_extras)
    captions = model.encode_captions(opened.captions, extras=opened.caption_extras)
    return Setup(model, Resampled(encoded, captions), pool_kind(model), about)


def random_chan(near: Path, width: int) -> Model:
    """A CHAN with random weights and a BiGRU of published size, saved because an index names its model."""
    folder = near / "bench.model"
    vocabulary = Vocabulary.build([_WORDS], min_count=1)
    text = BigruConfig(vocab_size=len(vocabulary))
    config = ChanConfig(joint_dim=width, image=RegionsConfig(width=8), text=text, context="none", pooling="mean")
    model = Model(Chan(config).eval(), WordTokenizer(vocabulary), {}, folder)
    model.save(folder)
    return model


def build(place: IndexFolder, setup: Setup, images: int, backend: str) -> dict[str, Any]:
    """Make the index: shards as the writer of ``patchword index`` makes them."""
    needed = images * (PATCH_BYTES * setup.maker.width + 2 * setup.spec.pooling.width)
    place.path.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place.path).free < needed + (2 << 30):
        raise ConfigError(f"an index of {images:,} images takes {needed / 1e9:.1f} GB, which '{place.path}' has not.")
    place.shards.mkdir(exist_ok=True)
    create(place.catalog)
    manifest = Manifest(
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),
        model=stamp_of(setup.model),
        width=setup.maker.width,
        set_size=36,
        pooled=setup.spec.pooling,
        backend=BackendChoice(kind=backend),
    )
    write_manifest(place, manifest)
    making, writing = 0.0, 0.0
    with connect_to_write(place.catalog) as connection:
        writer = Writer(place, connection, manifest)
        connection.execute("INSERT INTO roots (path, kind, follow) VALUES (?, 'features', 0)", (str(place.path),))
        per_shard = max(_BLOCK, (256 << 20) // (PATCH_BYTES * setup.maker.width) // _BLOCK * _BLOCK)
        for start in range(0, images, per_shard):
            count = min(per_shard, images - start)
            started = time.perf_counter()
            blocks = [setup.maker.images(min(_BLOCK, count - k)) for k in range(0, count, _BLOCK)]
            made = time.perf_counter()
            rows = [to_rows(block, setup.spec.pool_images) for block in blocks]
            tensors: dict[str, list[Array]] = {
                "vectors": [row.vectors for row in rows],
                "lengths": [row.lengths for row in rows],
                "pooled": [row.pooled for row in rows],
            }
            items = [
                NewItem(Seen(1, f"made/{n:08d}", 0, 0), "", 0, feature=f"made/{n}") for n in range(start, start + count)
            ]
            writer.add_shard("image", tensors, items)
            making += made - started
            writing += time.perf_counter() - made
    started = time.perf_counter()
    update_shortlist(place)
    seconds = time.perf_counter() - started
    return {
        "backend": backend,
        "made_s": round(making, 1),
        "written_s": round(writing, 1),
        "shortlist_s": round(seconds, 1),
        "images_per_s": round(images / (writing + seconds), 1),
        "disk_gb": round(sum(path.stat().st_size for path in place.path.rglob("*") if path.is_file()) / 1e9, 3),
        "shortlist_mb": round(sum(p.stat().st_size for p in place.shortlist.rglob("*") if p.is_file()) / 1e6, 1),
        "gemm_gflops": round(gemm_gflops(), 1),
    }


def measure(
    place: IndexFolder, setup: Setup, queries: int, truths: int, candidates: int | None
) -> Iterator[dict[str, Any]]:
    """Open the index as a reader does and ask it."""
    from patchword.store.manifest import read_manifest

    manifest = read_manifest(place)
    before = anonymous_gib()
    started = time.perf_counter()
    snapshot = open_snapshot(place)
    if len(snapshot) != setup.about["images"]:
        raise DataError(
            f"'{place.path}' holds {len(snapshot):,} images. Expected the {setup.about['images']:,} it was made with. "
            "Remove it, or choose another --folder."
        )
    shortlist = open_shortlist(
        place, snapshot, setup.model.method.name, manifest.pooled, dict(manifest.backend.options)
    )
    cores = Cores()
    collection = Collection(snapshot, shortlist, setup.spec, cores)
    opened = time.perf_counter() - started
    asked = setup.maker.captions(queries)
    wanted = candidates or rule(len(snapshot))
    gemm = statistics.median(gemm_gflops() for _ in range(3))
    about = {**setup.about, "backend": manifest.backend.kind, "open_s": round(opened, 2)}
    with Catalog(place) as catalog:

        def ask(one: Encoded, mode: Literal["exact", "fast"]) -> None:
            with one_core(), torch.no_grad():
                setup.model.encode_captions([_WORDS])
                ready = query_of(setup.model, one)
                if mode == "exact":
                    (hits,) = collection.exact(ready, 10, None, None)
                else:
                    (hits,) = collection.fast(ready, 10, None, None, wanted)
            catalog.find(snapshot.ids[hits.rows].tolist())

        fast = times_of(lambda one: ask(one, "fast"), asked, queries)
        memory = anonymous_gib()
        yield {
            **about,
            "what": "fast",
            "candidates": wanted,
            **spread(fast, gemm),
            "anonymous_gib": round(memory, 3),
            "anonymous_growth_gib": round(memory - before, 3),
        }
        exact = times_of(lambda one: ask(one, "exact"), asked, min(queries, 10 if len(snapshot) <= 100_000 else 3))
        yield {**about, "what": "exact", **spread(exact, gemm)}
    yield {**about, "what": "recall", **recall_of(collection, setup.model, asked, min(truths, queries), wanted)}
    cores.close()


def query_of(model: Model, captions: Encoded) -> ImageQueries:
    """Encoded captions as queries of one sentence each."""
    count = len(captions)
    return ImageQueries(model.method, captions, None, torch.eye(count), torch.zeros(0, count))


def times_of(ask: Callable[[Encoded], None], captions: Encoded, count: int) -> list[float]:
    """Milliseconds of each query, after a few that do not count."""
    for query in range(min(3, count)):
        ask(captions.slice(query, query + 1))
    found = []
    for query in range(count):
        started = time.perf_counter()
        ask(captions.slice(query, query + 1))
        found.append((time.perf_counter() - started) * 1e3)
    return found


def spread(times: list[float], gemm: float) -> dict[str, Any]:
    """Rate and quantiles of some times."""
    rate = 1e3 / statistics.fmean(times)
    return {
        "queries": len(times),
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p95_ms": round(float(np.percentile(times, 95)), 2),
        "queries_per_s": round(rate, 1),
        "gemm_gflops": round(gemm, 1),
        "per_gemm_gflop": round(rate / gemm, 4),
    }


def recall_of(collection: Collection, model: Model, captions: Encoded, count: int, candidates: int) -> dict[str, Any]:
    """Share of the exhaustive best ten that is among the candidates, for several numbers of them."""
    counts = sorted({min(c, len(collection)) for c in (100, 200, 500, 1000, 2000, candidates)})
    shares = []
    with one_core(), torch.no_grad():
        for start in range(0, count, _TOGETHER):
            ready = query_of(model, captions.slice(start, min(start + _TOGETHER, count)))
            truth = collection.exact(ready, 10, None, None)
            found = collection.shortlist.find(collection.query_vectors(ready), counts[-1])
            for best, ids in zip(truth, found, strict=True):
                wanted = collection.snapshot.ids[best.rows]
                shares.append([float(np.isin(wanted, ids[:c]).mean()) for c in counts])
    means = np.mean(shares, axis=0)
    return {
        "queries": count,
        "candidates": candidates,
        "recall_at_10": round(float(means[counts.index(min(candidates, len(collection)))]), 4),
        "recall_by_candidates": {c: round(float(mean), 4) for c, mean in zip(counts, means, strict=True)},
    }


def anonymous_gib() -> float:
    """Memory of this process that is not the page cache's (RssAnon); 0 where the system does not tell it."""
    return status_gib("RssAnon") or 0.0
