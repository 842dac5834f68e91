"""Milvus through its own client: a local file (Milvus Lite) or a cluster's address, the same calls for both.

The collection belongs to the index: its name comes from the index's folder unless it is given. Tokens are never written
into the index: they come with the options at open, or from a file that ``token_file`` names.

Milvus Lite is a server within this process, over files that only one process can have open.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchword.errors import ConfigError, DataError
from patchword.shortlist.base import NONE, GlobalIndex, Ids, check_options
from patchword.shortlist.saved import read_saved
from patchword.store.layout import IndexFolder

ABOUT = "milvus.json"
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "uri": str,
    "token": str,
    "token_file": str,
    "collection": str,
    "index_type": str,
    "index_params": dict,
    "search_params": dict,
    "timeout_s": (int, float),
}
MOST = 16_384  # results of one search, Milvus's own limit
_BATCH = 2_000  # vectors sent together
_LISTED = 1_000  # allowed ids whose vectors are fetched; of more, results are filtered here
_TIMEOUT_S = 60.0
_LOGS = ("milvus_lite",)  # logs that would print tracebacks
_CHECK_S = 10.0  # until a server must have answered for the first time, and until an old collection must be gone


class MilvusIndex(GlobalIndex):
    """One collection of vectors under integer ids.

    Args:
        client: of pymilvus, connected.
        options: ``uri`` (a file that ends in .db, or an address), ``token`` or ``token_file``, ``collection``,
            ``index_type`` (Milvus's, ``AUTOINDEX``), ``index_params``, ``search_params``, ``timeout_s``.
        width: d.
    """

    is_on_server: ClassVar[bool] = True

    def __init__(self, client: Any, options: Mapping[str, Any], width: int) -> None:
        self.client, self.options, self.width = client, dict(options), width
        self.collection = str(options["collection"])
        self._timeout = float(options.get("timeout_s") or _TIMEOUT_S)

    @classmethod
    def empty(cls, width: int, expected: int, options: Mapping[str, Any]) -> MilvusIndex:
        """A new collection; one of the same name is dropped.

        Raises:
            ConfigError: pymilvus is not installed, or an option is missing or wrong.
            DataError: the server does not answer, or refuses.
        """
        made = cls(connect(options), options, width)
        with _OneLine(made.options):
            made._create()
        return made

    @classmethod
    def with_defaults(cls, options: Mapping[str, Any], place: IndexFolder, kind: str) -> dict[str, Any]:
        """Options with the place of a local file and the collection's name filled in.

        A relative ``uri`` that ends in .db lies in the index folder. The name is another one than that of the
        collection in use, which answers until a new one is whole.
        """
        filled = dict(options)
        uri = str(filled.get("uri") or "milvus.db")
        if "://" not in uri:
            filled["uri"] = str(place.path.resolve() / uri)
        name = filled.get("collection")
        if not name:
            digest = blake2b(str(place.path.resolve()).encode(), digest_size=6).hexdigest()
            name = f"patchword_{digest}"
        filled["collection"] = f"{name}_{kind}"
        saved = read_saved(place, kind)
        if saved is not None and _collection_of(place.shortlist / saved.folder) == filled["collection"]:
            filled["collection"] += "_2"
        return filled

    @classmethod
    def check(cls, width: int, options: Mapping[str, Any]) -> None:
        """Refuse options that can not work, and a server that does not answer within ten seconds.

        A local file is not opened: it is made with the index.
        """
        uri = str(options.get("uri") or "milvus.db")
        if options.get("token"):
            raise ConfigError("a token would be written into the index. Give token_file=FILE, which is read each time.")
        if "://" in uri:
            short = {**options, "collection": "none", "timeout_s": min(_CHECK_S, options.get("timeout_s") or _CHECK_S)}
            with _OneLine(options):
                connect(short).list_collections(timeout=short["timeout_s"])
            return
        check_options("milvus", options, OPTIONS)
        pymilvus_client()
        if not uri.endswith(".db"):
            raise ConfigError(
                f"the option 'uri' of the backend milvus is {uri!r}. Expected FILE.db or http://HOST:PORT."
            )

    @classmethod
    def discard(cls, folder: Path, options: Mapping[str, Any]) -> None:
        """Drop the collection that was saved."""
        name = _collection_of(folder)
        if name is not None:
            client = connect({**options, "collection": name, "timeout_s": _CHECK_S})
            with _OneLine(options):
                client.drop_collection(name, timeout=_CHECK_S)

    def _create(self) -> None:
        from pymilvus import DataType

        if self.client.has_collection(self.collection, timeout=self._timeout):
            self.client.drop_collection(self.collection, timeout=self._timeout)
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.width)
        index = self.client.prepare_index_params()
        index.add_index(
            "vector",
            index_type=self.options.get("index_type") or "AUTOINDEX",
            metric_type="IP",
            params=self.options.get("index_params") or {},
        )
        self.client.create_collection(
            self.collection,
            schema=schema,
            index_params=index,
            consistency_level="Strong",
            timeout=self._timeout,
        )

    def __len__(self) -> int:
        with _OneLine(self.options):
            found = self.client.query(self.collection, output_fields=["count(*)"], timeout=self._timeout)
        return int(found[0]["count(*)"])

    def add(self, ids: Ids, vectors: Float[Tensor, "n d"]) -> None:
        """Add vectors, or replace those under the same ids: an addition that broke off can be repeated."""
        rows = vectors.float().numpy()
        with _OneLine(self.options):
            for start in range(0, len(ids), _BATCH):
                part = [
                    {"id": int(one), "vector": rows[place].tolist()}
                    for place, one in enumerate(ids[start : start + _BATCH], start=start)
                ]
                self.client.upsert(self.collection, part, timeout=self._timeout)

    def delete(self, ids: Ids) -> None:
        """Take vectors out."""
        with _OneLine(self.options):
            for start in range(0, len(ids), _BATCH):
                part = [int(one) for one in ids[start : start + _BATCH]]
                self.client.delete(self.collection, ids=part, timeout=self._timeout)

    def search(
        self, queries: Float[Tensor, "Q d"], k: int, allowed: Ids | None = None
    ) -> tuple[Ids, Float[Tensor, "Q k"]]:
        """About the k largest inner products of each query.

        The vectors of few allowed ids are fetched and compared here, because a graph searched through a narrow filter
        misses some. Of many, more is asked for and filtered here; where that gives less
        than k, everything Milvus returns at most (16,384) is asked for.
        """
        found = np.full((len(queries), k), NONE, dtype=np.int64)
        scores = torch.full((len(queries), k), -torch.inf)
        if not len(queries) or (allowed is not None and not len(allowed)):
            return found, scores
        listed = allowed is not None and len(allowed) <= _LISTED
        wanted = min(MOST, k if allowed is None or listed else 4 * k)
        rows = self._compare(queries, allowed) if allowed is not None and listed else self._ask(queries, wanted)
        if allowed is not None and not listed:
            rows = [_among(row, allowed) for row in rows]
            if wanted < MOST and min(map(len, rows)) < k:
                rows = [_among(row, allowed) for row in self._ask(queries, MOST)]
        for q, row in enumerate(rows):
            row = row[:k]
            found[q, : len(row)] = [one for one, _ in row]
            scores[q, : len(row)] = torch.tensor([score for _, score in row])
        return found, scores

    def _compare(self, queries: Float[Tensor, "Q d"], allowed: Ids) -> list[list[tuple[int, float]]]:
        """These ids with their inner products, best first."""
        with _OneLine(self.options):
            there = self.client.get(
                self.collection,
                ids=[int(one) for one in allowed],
                output_fields=["id", "vector"],
                timeout=self._timeout,
            )
        if not there:
            return [[] for _ in queries]
        ids = [int(one["id"]) for one in there]
        products = queries.float() @ torch.tensor(np.array([one["vector"] for one in there], dtype=np.float32)).T
        orders = products.argsort(dim=1, descending=True, stable=True)
        return [
            [(ids[at], float(row[at])) for at in order.tolist()] for row, order in zip(products, orders, strict=True)
        ]

    def _ask(self, queries: Float[Tensor, "Q d"], k: int) -> list[list[tuple[int, float]]]:
        """Ids and inner products from the server, best first."""
        with _OneLine(self.options):
            answer = self.client.search(
                self.collection,
                data=queries.float().tolist(),
                limit=k,
                search_params={"metric_type": "IP", "params": self.options.get("search_params") or {}},
                timeout=self._timeout,
            )
        return [[(int(hit["id"]), float(hit["distance"])) for hit in hits] for hits in answer]

    def save(self, folder: Path) -> None:
        """Write which collection it is; the vectors lie with Milvus."""
        with _OneLine(self.options):
            self.client.flush(self.collection, timeout=self._timeout)
        about = {"collection": self.collection, "width": self.width}
        (folder / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> MilvusIndex:
        """Connect to the collection that was written.

        Raises:
            ConfigError: pymilvus is not installed, or an option is missing or wrong.
            DataError: the file can not be read, the server does not answer, or it has no such collection.
        """
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            made_for = {**options, "collection": about["collection"]}
            width = int(about["width"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"'{folder / ABOUT}' can not be read: {error}.") from None
        made = cls(connect(made_for), made_for, width)
        with _OneLine(made.options):
            is_there = made.client.has_collection(made.collection, timeout=made._timeout)
            if is_there:
                made.client.load_collection(made.collection, timeout=made._timeout)
        if not is_there:
            raise DataError(
                f"Milvus at {made_for['uri']} has no collection {made.collection!r}. "
                "Make it again with: patchword index sync"
            )
        return made


def _collection_of(folder: Path) -> str | None:
    """The collection that was saved in a folder; None where there is none."""
    try:
        return str(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["collection"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _among(row: Sequence[tuple[int, float]], allowed: Ids) -> list[tuple[int, float]]:
    kept = np.isin(np.array([one for one, _ in row], dtype=np.int64), allowed)
    return [pair for pair, keep in zip(row, kept, strict=True) if keep]


def pymilvus_client() -> Any:
    """Import the client.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from pymilvus import MilvusClient
    except ImportError:
        raise ConfigError("pymilvus is not installed. In a clone of patchword: pip install '.[milvus]'") from None
    return MilvusClient


def connect(options: Mapping[str, Any]) -> Any:
    """A connected client.

    Raises:
        ConfigError: pymilvus is not installed, or an option is missing or wrong.
        DataError: nobody answers there, or another process has the file open.
    """
    check_options("milvus", options, OPTIONS)
    client = pymilvus_client()
    if "uri" not in options or "collection" not in options:
        raise ConfigError("the backend milvus needs `uri`: a file that ends in .db, or a server's address.")
    token = options.get("token") or ""
    if not token and options.get("token_file"):
        try:
            token = Path(options["token_file"]).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"the token file '{options['token_file']}' can not be read: {error.strerror}.") from None
    with _OneLine(options):
        return client(uri=options["uri"], token=token, timeout=options.get("timeout_s") or _TIMEOUT_S)


class _OneLine(logging.Handler):
    """A block in which Milvus's errors become one line of ours, and what it logs about them is kept for that line."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.uri, self.logged = options.get("uri"), list[BaseException]()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error of what Milvus Lite logs."""
        if record.exc_info and record.exc_info[1] is not None:
            self.logged.append(record.exc_info[1])

    def __enter__(self) -> None:
        for name in _LOGS:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from pymilvus.exceptions import MilvusException

        for name in _LOGS:
            logging.getLogger(name).removeHandler(self)
        if isinstance(error, MilvusException):
            if any(type(one).__name__ == "DataDirLockedError" for one in self.logged):
                raise DataError(
                    f"another process has '{self.uri}' open. Milvus Lite serves one process at a time; a Milvus server "
                    "serves many."
                ) from None
            reason = str(getattr(error, "message", "") or error).strip().splitlines()
            raise DataError(f"Milvus at {self.uri} refuses: {reason[0] if reason else 'no reason given'}") from None
