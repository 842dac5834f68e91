"""Long jobs cut into units: over threads, over processes, and over interruptions. None of it changes a result.

A unit is computed by one thread of one process and gives integer tensors (floats travel as their bits), which are added
to the totals in any order. Under torchrun unit k belongs to process k modulo their number, and the totals of all
processes are added at the end. With a folder every finished unit is written there, whole or not at all, so a job
that was killed goes on with the units that are missing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import patchword
from patchword.errors import ScoreError
from patchword.files import replacing, save_tensors, write_whole
from patchword.methods.base import Method
from patchword.types import Encoded

Progress = Callable[[int], None]
Found = dict[str, Tensor]

UNITS = 128  # most units of a job: enough for many cores, few enough for a folder
_ABOUT = "job.json"
_MESSAGE_BYTES = 64 << 20  # of a total that is added over processes at a time


@dataclass
class Job:
    """How the units of a job are run.

    Attributes:
        name: of this part of the job, for the names of its files.
        folder: where finished units are kept; None keeps nothing.
        progress: called with the number of pairs decided since the last call, one call at a time.
        at_a_time: most units that may be computed at a time.
    """

    name: str
    folder: Path | None = None
    progress: Progress | None = None
    at_a_time: int = 1 << 30
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, pairs: int) -> None:
        """Count finished pairs; called from any thread."""
        if self.progress is not None and pairs:
            with self._lock:
                self.progress(pairs)

    def run(self, units: int, work: Callable[[int], Found], pairs: Callable[[int], int]) -> Iterator[tuple[int, Found]]:
        """The results of this process's units, in the order in which they are finished.

        Args:
            units: number of units of all processes.
            work: computes one; called from several threads, without gradients, each on one core.
            pairs: how many pairs a unit decides, for the progress of units that are already there.
        """
        missing = []
        for unit in range(process()[0], units, process()[1]):
            kept = self._read(unit)
            if kept is None:
                missing.append(unit)
                continue
            self.advance(pairs(unit))
            yield unit, kept
        for unit, found in _on_all_cores(missing, work, self.at_a_time):
            self._write(unit, found)
            yield unit, found

    def _file(self, unit: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{self.name}_{unit:05d}.safetensors"

    def _read(self, unit: int) -> Found | None:
        path = self._file(unit)
        if path is None or not path.is_file():
            return None
        try:
            kept: Found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ScoreError(
                f"'{path}' can not be read ({error}). Delete it, and the job computes that part again."
            ) from error
        return kept

    def _write(self, unit: int, found: Found) -> None:
        path = self._file(unit)
        if path is not None:
            with replacing(path) as draft:
                save_tensors({name: value.contiguous() for name, value in found.items()}, draft)


def _on_all_cores(units: list[int], work: Callable[[int], Found], at_a_time: int) -> Iterator[tuple[int, Found]]:
    """Results of units, computed by as many threads as torch may use, each of which uses one core."""
    allowed = torch.get_num_threads()
    cores = min(allowed, len(units), at_a_time)
    waiting = iter(units)

    def one(unit: int) -> tuple[int, Found]:
        torch.set_num_threads(1)  # holds for the calling thread
        with torch.no_grad():
            return unit, work(unit)

    try:
        if cores <= 1:
            for unit in waiting:
                yield one(unit)
            return
        with ThreadPoolExecutor(cores) as pool:
            try:
                running: set[Future[tuple[int, Found]]] = {
                    pool.submit(one, unit) for _, unit in zip(range(cores), waiting, strict=False)
                }
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    running |= {pool.submit(one, unit) for _, unit in zip(range(len(done)), waiting, strict=False)}
                    for future in done:
                        yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        torch.set_num_threads(allowed)


def process() -> tuple[int, int]:
    """Number of this process and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def share(totals: Mapping[str, Tensor]) -> None:
    """Add the totals of all processes, in place; they are integers on the CPU, so the sums are exact."""
    if process()[1] == 1:
        return
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    for name in sorted(totals):
        flat = totals[name].view(-1)
        for part in flat.split(max(1, _MESSAGE_BYTES // flat.element_size())):
            moved = part.to(device)
            dist.all_reduce(moved)
            part.copy_(moved)


def open_folder(folder: Path, identity: Mapping[str, str | int]) -> None:
    """Make the folder of a job, or check that it belongs to the same one.

    Raises:
        ScoreError: it is a file, or holds the parts of another job.
    """
    if folder.exists() and not folder.is_dir():
        raise ScoreError(f"'{folder}' is a file. Expected the name of a folder for the parts of a scoring job.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _ABOUT
    if path.is_file():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            kept = {}
        if kept != dict(identity):
            differs = [key for key in identity if kept.get(key) != identity[key]]
            what = f"different {' and '.join(differs)}" if differs else "its description is damaged"
            raise ScoreError(
                f"'{folder}' holds the parts of another scoring job ({what}). "
                "Give another folder, or delete this one to start again."
            )
        return
    write_whole(path, json.dumps(dict(identity), indent=2) + "\n")


def identity_of(method: Method, images: Encoded, captions: Encoded, **what: str | int) -> dict[str, str | int]:
    """What the parts of a job depend on: method, weights, sets, what computes them and what is asked of them."""
    state = {name: value for name, value in method.state_dict().items() if not name.startswith(("image.", "text."))}
    return {
        "method": method.name,
        "configuration": digest(json.dumps(method.config.model_dump(mode="json"), sort_keys=True).encode()),
        "weights": digest(*(state[name] for name in sorted(state))),
        "images": digest(images.lengths, images.vectors),
        "captions": digest(captions.lengths, captions.vectors),
        "drawn": str(method.drawn),
        "patchword": patchword.__version__,
        "torch": torch.__version__,
        "matmul": torch.get_float32_matmul_precision(),
        "machine": f"{images.vectors.device.type}, {torch.backends.cpu.get_cpu_capability()}",
        **what,
    }


def digest(*parts: Tensor | bytes) -> str:
    """Fingerprint of tensors and bytes, in order."""
    seen = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            seen.update(f"{part.dtype}{tuple(part.shape)}".encode())
            seen.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            seen.update(part)
    return seen.hexdigest()
