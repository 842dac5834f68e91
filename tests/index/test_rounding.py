"""What storing vectors in half precision does to scores: exact search against the model's own vectors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from engine_toys import CAPTIONS
from small import write_precomp
from store_toys import save_region_model

from patchword.data.open import open_split
from patchword.index import build
from patchword.loading import load
from patchword.retrieve.engine import Index
from patchword.search import Searcher

MOST = 2**-11  # of a unit vector's numbers, and so of a score: the bound in docs/search.md


def test_scores_differ_by_the_rounding_of_stored_vectors_only(tmp_path: Path) -> None:
    model = load(save_region_model(tmp_path / "model"))
    data = write_precomp(tmp_path / "data", {"test": 100})
    build(None, tmp_path / "i", model=model, features=data)
    searcher, largest = Searcher(model, open_split(data, "test")), 0.0
    with Index.open(tmp_path / "i", model=model) as index:
        for query in CAPTIONS:
            whole = {hit.image_id: hit.score for hit in searcher.by_text(query, k=100)}
            found = index.search(query, 100, mode="exact").hits
            stored = {hit.item.path: hit.score for hit in found}
            assert stored.keys() == whole.keys()
            largest = max(largest, max(abs(stored[one] - whole[one]) for one in whole))
            for better, worse in pairwise(found):  # only near neighbours change places
                assert whole[better.item.path] >= whole[worse.item.path] - 2 * MOST
    assert 0 < largest < MOST
