"""Encoding again the images that lost their vectors: from their files, under their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console

from patchword.console import ProgressBar
from patchword.index.damage import runs
from patchword.index.pending import Pending, Source
from patchword.index.records import NewItem
from patchword.index.scan import Seen, Skip
from patchword.index.writer import Writer
from patchword.store.estimate import bytes_per_image, require_space

AT_ONCE = 512  # images in a shard, so that little is done twice after a kill; small shards are joined later
NOT_FINITE = "the model gives no finite numbers for it"


@dataclass
class Restored:
    """What became of images without vectors.

    Attributes:
        done: have vectors again.
        skips: files that can not be indexed any more.
        changed: files whose content is another one, although size and time said that it is not.
    """

    done: int = 0
    skips: list[Skip] = field(default_factory=list)
    changed: list[Seen] = field(default_factory=list)


def restore_images(
    writer: Writer, source: Source, files: Mapping[int, Seen], hashes: Mapping[int, str], console: Console
) -> Restored:
    """Encode images again, shard by shard, each of which is registered as soon as it is written.

    Args:
        writer: of the index.
        source: that the index is filled from.
        files: id to file, of items without vectors.
        hashes: id to hash of the content that the item stands for.
        console: where progress goes.

    Raises:
        DataError: the disk is full; what is registered stays.
    """
    found = Restored()
    require_space(writer.folder.path, len(files) * bytes_per_image(writer.manifest))
    with ProgressBar(len(files), "encoding again", "images", console) as shown:
        for ids in list(runs(writer, "image", sorted(files), AT_ONCE)):
            pending, skips = Pending(), list[Skip]()
            for batch in source.batches([files[one] for one in ids]):
                if isinstance(batch, Skip):
                    skips.append(batch)
                    shown.advance(1)
                    continue
                bad: list[NewItem] = pending.add(batch.items, batch.rows, batch.boxes)
                skips += [Skip(b.seen.root, b.seen.path, NOT_FINITE, b.seen.size, b.seen.mtime) for b in bad]
                shown.advance(len(batch.items))
            _register(writer, pending, {files[one]: one for one in ids}, hashes, skips, found)
    return found


def _register(
    writer: Writer,
    pending: Pending,
    ids: Mapping[Seen, int],
    hashes: Mapping[int, str],
    skips: list[Skip],
    found: Restored,
) -> None:
    """Put the vectors of one run into a shard, in the order of the ids."""
    of_place = {(seen.root, seen.path): one for seen, one in ids.items()}
    same = dict[int, int]()  # id to position in the shard under construction
    for place, item in enumerate(pending.items):
        one = of_place[item.seen.root, item.seen.path]
        if item.hash == hashes[one]:
            same[one] = place
        else:
            found.changed.append(item.seen)
    found.skips += skips
    found.done += len(same)
    if same:
        kept = sorted(same)
        writer.restore("image", kept, pending.chosen([same[one] for one in kept]).tensors(), skips=skips)
    elif skips:
        writer.put_skips(skips)
