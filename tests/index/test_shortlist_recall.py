"""The measured recall of the shortlist, and the number of candidates it recommends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_toys import picture_index, region_index

from patchword.errors import DataError
from patchword.retrieve.candidates import candidates_for, read_candidates, rule
from patchword.retrieve.engine import Index
from patchword.retrieve.recall import measure_recall
from patchword.store.layout import IndexFolder


def test_recall_is_that_of_fast_against_exact(tmp_path: Path) -> None:
    folder, model = region_index(tmp_path)
    texts = ["a dog and a cup.", "a boat.", "a hat and a tree and a car.", "bird and lamp"]
    with Index.open(folder, model=model) as index:
        report = measure_recall(index, queries=texts)
        assert (report.images, report.queries, report.source, report.k) == (300, 4, "given sentences", 10)
        for row in report.rows:
            shares = []
            for text in texts:
                exact, fast = (
                    index.search(text, 10, mode=mode, candidates=row.candidates)  # type: ignore[arg-type]
                    for mode in ("exact", "fast")
                )
                shares.append(len({h.id for h in exact.hits} & {h.id for h in fast.hits}) / 10)
            assert row.recall == pytest.approx(np.mean(shares), abs=1e-4)
            assert row.least == pytest.approx(min(shares), abs=1e-4)
        assert report.rows[-1].candidates == 300
        assert report.rows[-1].recall == 1.0
        best = next(row for row in report.rows if row.recall >= 0.99)
        assert report.recommended == best.candidates
        assert read_candidates(index.place) == (report.recommended, 300)
        assert candidates_for(index.place, 300, 10) == report.recommended
        assert candidates_for(index.place, 1200, 10) == 2 * report.recommended
        assert index.search("a dog", mode="fast").rescored in (report.recommended, 300)


def test_queries_come_from_captions_a_file_or_the_vocabulary(tmp_path: Path) -> None:
    folder, model = picture_index(tmp_path, captions=True)
    assert measure_recall(folder, model=model).source == "indexed captions"
    lines = tmp_path / "lines.txt"
    lines.write_text("a dog\n\nqwertz\na red wall\n", encoding="utf-8")
    with_file = measure_recall(folder, model=model, queries=lines)
    assert (with_file.source, with_file.queries) == ("lines of lines.txt", 2)
    assert not (folder / "candidates.json").exists()  # of twelve images all are scored
    bare, _ = picture_index(tmp_path / "bare")
    assert "vocabulary" in measure_recall(bare, count=5).source
    with pytest.raises(DataError, match="none of the 1 queries"):
        measure_recall(bare, queries=["qwertz"])
    with pytest.raises(DataError, match="can not be read"):
        measure_recall(bare, queries=tmp_path / "gone.txt")


def test_an_empty_index_has_no_recall(tmp_path: Path) -> None:
    folder, model = picture_index(tmp_path, count=0)
    with pytest.raises(DataError, match="holds no images"):
        measure_recall(folder, model=model)


def test_a_damaged_number_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "candidates.json").write_text('{"candidates": "many"}', encoding="utf-8")
    assert candidates_for(IndexFolder(tmp_path), 90_000, 10) == rule(90_000) == 300
