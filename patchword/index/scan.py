"""Looking through folders: picture files with size and time of change, and what can not be one, with the reason.

Found is every file whose name ends like a picture's, also of formats that are not decoded. Everything else, and every
name that begins with a dot, is none of an index's business. Symbolic links are listed, not followed, unless asked for.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from patchword.data.text_files import PICTURE_SUFFIXES
from patchword.store.layout import is_index

# Endings of pictures that are not decoded: such files are listed, so that nobody wonders where they are.
OTHER_SUFFIXES = (
    ".svg", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".ico", ".eps", ".raw", ".dng", ".cr2", ".cr3", ".nef",
    ".arw", ".orf", ".rw2",
)  # fmt: skip
UNTRIED = -1  # size of a skipped file that is looked at again every time
UNREACHED = -2  # size of one of which nothing is known now: the system did not let it be looked at, or read
SETTLED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # errors that do say something: it is gone, or a link


@dataclass(frozen=True)
class Seen:
    """A picture file that is there.

    Attributes:
        root: number of its root.
        path: below the root, with ``/``.
        size: bytes.
        mtime: ns since 1970.
    """

    root: int
    path: str
    size: int
    mtime: int


@dataclass(frozen=True)
class Skip:
    """A file that is not indexed.

    Attributes:
        size, mtime: of the file; it is looked at again when they change, and always with a size of -1 or -2.
        sticky: it was removed on purpose.
    """

    root: int
    path: str
    reason: str
    size: int = UNTRIED
    mtime: int = 0
    sticky: bool = False

    @property
    def is_unknown(self) -> bool:
        """Whether the file may well be as it was, so that what is indexed of it stays."""
        return self.size == UNREACHED


@dataclass
class Scan:
    """What is in some folders.

    Attributes:
        files: pictures to be indexed, sorted by path.
        skips: what can not be.
        closed: folders that could not be read, below the root with ``/`` ("" is the root): nothing is known of them.
        ignored: files that are no pictures.
    """

    files: list[Seen] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    closed: list[tuple[int, str]] = field(default_factory=list)
    ignored: int = 0

    @property
    def found(self) -> int:
        """The number of picture files, also of those that can not be indexed."""
        return len(self.files) + len(self.skips)

    def join(self, other: Scan) -> None:
        """Add what was found elsewhere."""
        self.files += other.files
        self.skips += other.skips
        self.closed += other.closed
        self.ignored += other.ignored


def scan_folder(number: int, root: Path, below: str = "", *, follow: bool = False) -> Scan:
    """Look through a folder of a root and all folders in it.

    Args:
        number, root: the root's number and folder.
        below: the folder to look through, below the root with ``/``; the root itself by default.
        follow: go through symbolic links as well; a folder is entered once.
    """
    scan, visited = Scan(), set[tuple[int, int]]()
    waiting = [below]
    while waiting:
        folder = waiting.pop()
        place = os.path.join(root, folder) if folder else str(root)
        try:
            if follow:
                about = os.stat(place)
                if (about.st_dev, about.st_ino) in visited:
                    continue
                visited.add((about.st_dev, about.st_ino))
            with os.scandir(place) as entries:
                for entry in entries:
                    _look(scan, number, f"{folder}/{entry.name}" if folder else entry.name, entry, waiting, follow)
        except OSError as error:
            scan.closed.append((number, folder))
            reason = f"the folder can not be read: {error.strerror}"
            scan.skips.append(Skip(number, show(folder or "."), reason, UNREACHED))
    scan.files.sort(key=lambda seen: seen.path)
    scan.skips.sort(key=lambda skip: skip.path)
    return scan


def _look(scan: Scan, number: int, path: str, entry: os.DirEntry[str], waiting: list[str], follow: bool) -> None:
    """Sort one entry of a folder."""
    if entry.name.startswith("."):
        scan.ignored += 1
        return
    try:
        is_unwanted_link = entry.is_symlink() and not follow
        is_folder = not is_unwanted_link and _is_folder(entry, follow=follow)
    except OSError as error:  # a file or a folder: what is indexed of it, or below it, stays
        scan.skips.append(unread(number, show(path), error))
        return
    if is_unwanted_link:
        if _leads_to_folder(entry) or ending(entry.name) in PICTURE_SUFFIXES:
            scan.skips.append(Skip(number, show(path), "a symbolic link, which is not followed (--follow-links does)"))
        else:
            scan.ignored += 1
        return
    if is_folder:
        if not is_index(Path(entry.path)):
            waiting.append(path)
        return
    file = see(number, path, entry, follow=follow)
    if file is None:
        scan.ignored += 1
    elif isinstance(file, Seen):
        scan.files.append(file)
    else:
        scan.skips.append(file)


def _is_folder(entry: os.DirEntry[str], *, follow: bool) -> bool:
    """Whether an entry is a folder; a link that leads to itself is none.

    Raises:
        OSError: the system does not say what it is.
    """
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError as error:
        if error.errno in SETTLED:
            return False
        raise


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    """Whether a link that is not followed leads to a folder, as far as the system says."""
    try:
        return link.is_dir()
    except OSError:
        return False


def see(number: int, path: str, entry: os.DirEntry[str] | Path, *, follow: bool = False) -> Seen | Skip | None:
    """One file as it is now: a picture, something that can not be indexed, or (None) no picture at all."""
    end = ending(path)
    if end not in PICTURE_SUFFIXES and end not in OTHER_SUFFIXES:
        return None
    name = show(path)
    try:
        about = entry.stat(follow_symlinks=follow)
    except OSError as error:
        return unread(number, name, error)
    if not stat.S_ISREG(about.st_mode):
        return Skip(number, name, "not a regular file")
    if end in OTHER_SUFFIXES:
        return Skip(number, name, f"{end} files are not decoded", about.st_size, about.st_mtime_ns)
    if name != path:
        return Skip(number, name, "its name is not valid UTF-8; rename it", about.st_size, about.st_mtime_ns)
    return Seen(number, path, about.st_size, about.st_mtime_ns)


def unread(number: int, name: str, error: OSError) -> Skip:
    """What an error of the system says about a file: it is gone, or nothing is known of it."""
    size = UNTRIED if error.errno in SETTLED else UNREACHED
    return Skip(number, name, f"can not be read: {error.strerror}", size)


def ending(name: str) -> str:
    """What a file name ends in, in small letters, with the dot."""
    return os.path.splitext(name)[1].lower()


def show(path: str) -> str:
    r"""A path as text that can be written anywhere; bytes that are no UTF-8 are shown as ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
