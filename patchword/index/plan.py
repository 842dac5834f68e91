"""What has changed: the files that are there against the items that are known, decided without encoding anything.

A file whose size and time of change are those of its item is not read. The others are read for their hash only where
some item that lost its place has the same size: its content may just have moved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from patchword.index.records import Known
from patchword.index.scan import Scan, Seen, Skip

Place = tuple[int, str]
Hashed = tuple[str, Seen, int]  # hash, the file when it was opened, time of opening in ns


@dataclass
class Plan:
    """What is to be done to bring an index up to date.

    Attributes:
        unchanged: number of files that are as their items say.
        touched: id, file and time of reading: the same content, another time of change.
        moved: the same at another path.
        gone: ids of items whose file is not there any more.
        encode: files to be read and encoded.
        restore: id and file of items that lost their vectors, to be encoded again as they are; the moved and touched
            ones are in their lists as well.
        skips: files that can not be indexed, as far as known without reading.
        unskip: places that are not skipped any more.
    """

    unchanged: int = 0
    touched: list[tuple[int, Seen, int]] = field(default_factory=list)
    moved: list[tuple[int, Seen, int]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    encode: list[Seen] = field(default_factory=list)
    restore: list[tuple[int, Seen]] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    unskip: list[Place] = field(default_factory=list)


def make_plan(
    scan: Scan,
    known: Mapping[Place, Known],
    skipped: Mapping[Place, Skip],
    hashes: Callable[[Sequence[Seen]], Iterable[Hashed | None]],
    *,
    removes: bool,
    moves: bool,
    retry: bool = False,
    lost: Collection[int] = (),
    outdated: Collection[int] = (),
    is_there: Callable[[Place], bool] = lambda _: True,
) -> Plan:
    """Compare the files that are there with the items that are known.

    Args:
        scan: the files in the scope.
        known: the items in the scope.
        skipped: the files in the scope that were skipped before.
        hashes: reads files for their hash, in order; None for one that can not be read.
        removes: whether items without a file are removed.
        moves: whether files at new places are recognised by their content.
        retry: look again at skipped files that have not changed, and take back what was removed on purpose.
        lost: ids of items that lost their vectors.
        outdated: ids of items to be encoded anew, although their files are as they were.
        is_there: whether the system says that a file is there, asked of items in folders that can not be read: if not,
            a new file with their content is taken for the moved one.
    """
    plan = Plan(skips=list(scan.skips))
    todo = list[Seen]()
    for seen in scan.files:
        place = (seen.root, seen.path)
        item, skip = known.get(place), skipped.get(place)
        if item is not None and item.id in outdated:
            plan.encode.append(seen)
        elif item is not None and item.is_same(seen):
            if item.id in lost:
                plan.restore.append((item.id, seen))
            else:
                plan.unchanged += 1
        elif item is None and skip is not None and not retry and _still(skip, seen):
            plan.skips.append(skip)
        else:
            todo.append(seen)
    there = {(seen.root, seen.path) for seen in scan.files}
    unknown = {*scan.closed, *((skip.root, skip.path) for skip in scan.skips if skip.is_unknown)}
    away = [(place, item) for place, item in known.items() if place not in there] if removes else []
    vanished = [item for place, item in away if not _hidden(unknown, place)]
    sizes = {seen.size for seen in todo} if moves else set()
    hidden = [item for place, item in away if _hidden(unknown, place) and item.size in sizes and not is_there(place)]
    _settle(plan, todo, known, vanished, hidden, hashes, moves=moves)
    plan.restore += [(one, seen) for one, seen, _ in (*plan.touched, *plan.moved) if one in lost]
    kept = {(skip.root, skip.path) for skip in plan.skips}
    plan.unskip = [place for place in skipped if place not in kept and not _hidden(unknown, place)]
    return plan


def _settle(
    plan: Plan,
    todo: Sequence[Seen],
    known: Mapping[Place, Known],
    vanished: Sequence[Known],
    hidden: Sequence[Known],
    hashes: Callable[[Sequence[Seen]], Iterable[Hashed | None]],
    *,
    moves: bool,
) -> None:
    """Tell which of the files to be looked at hold what an item without its place held.

    An item that is hidden, because its folder can not be read, stays unless a file has its content and no item that
    surely lost its place had it.
    """
    changed = {(seen.root, seen.path): known[seen.root, seen.path] for seen in todo if (seen.root, seen.path) in known}
    # Items whose place is empty, or may be, or may hold other content.
    loose = {item.id: item for item in (*vanished, *changed.values(), *hidden)}
    sizes = {item.size for item in loose.values()}
    suspects = [
        seen
        for seen in todo
        if (seen.size in sizes if moves else (seen.root, seen.path) in changed and _size_of(changed, seen) == seen.size)
    ]
    content: dict[Place, Hashed] = {}
    for seen, found in zip(suspects, hashes(suspects), strict=True):
        if found is not None:
            content[seen.root, seen.path] = found
    left = list[Seen]()
    for seen in todo:  # first those that are where they were
        item, found = changed.get((seen.root, seen.path)), content.get((seen.root, seen.path))
        if item is not None and found is not None and found[0] == item.hash:
            plan.touched.append((item.id, found[1], found[2]))
            del loose[item.id]
        else:
            left.append(seen)
    by_hash: dict[str, list[Known]] = {}
    unsure = {item.id for item in hidden}
    for item in sorted(loose.values(), key=lambda item: (item.id not in unsure, -item.id)):
        by_hash.setdefault(item.hash, []).append(item)
    for seen in left:
        found = content.get((seen.root, seen.path))
        if moves and found is not None and by_hash.get(found[0]):
            item = by_hash[found[0]].pop()
            plan.moved.append((item.id, found[1], found[2]))
            del loose[item.id]
        else:
            plan.encode.append(seen)
    # A changed file's old item goes in the transaction that brings its new one.
    plan.gone = [item.id for item in vanished if item.id in loose]


def _size_of(changed: Mapping[Place, Known], seen: Seen) -> int:
    return changed[seen.root, seen.path].size


def _still(skip: Skip, seen: Seen) -> bool:
    """Whether a skipped file is the one that it was."""
    return skip.sticky or (skip.size, skip.mtime) == (seen.size, seen.mtime)


def _hidden(unknown: Collection[Place], place: Place) -> bool:
    """Whether a place is one of those of which nothing is known, or lies in one."""
    root, path = place
    parts = path.split("/") if unknown else []
    return any((root, "/".join(parts[:count])) in unknown for count in range(len(parts) + 1))
