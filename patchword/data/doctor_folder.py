"""The doctor's checks of pictures with texts beside them: every damaged text and picture, not only the first."""

from __future__ import annotations

from pathlib import Path

from patchword.data.doctor_checks import Finding, check_decoding, first_few, problem_of
from patchword.data.folder import pairs_below
from patchword.data.pictures import PictureFiles
from patchword.data.text_files import is_bytes_literal, read_lines
from patchword.errors import DataError

_FAULTS = {
    "empty": ("texts are empty", "the captions of the picture, one per line", "write them, or remove the text"),
    "gaps": ("texts have empty lines", "a caption on every line", "remove the empty lines"),
    "literal": (
        "texts hold Python bytes literals (b'...')",
        "plain text",
        "decode the captions as UTF-8 and write the files again",
    ),
    "unreadable": ("texts can not be read", "UTF-8", "convert them to UTF-8"),
    "shared": ("texts belong to several pictures of the same name", "one picture each", "rename all but one of them"),
}


def check_texts(what: str, home: Path) -> list[Finding]:
    """Every text below a folder that can not be used, by its fault.

    Args:
        what: the split, for the report.
        home: its folder.
    """
    described, _ = pairs_below(home)
    faulty: dict[str, list[str]] = {fault: [] for fault in _FAULTS}
    for text, pictures in described.items():
        name = f"'{text.relative_to(home).as_posix()}'"
        if len(pictures) > 1:
            faulty["shared"].append(name)
        try:
            lines = read_lines(text)
        except DataError as error:
            faulty["unreadable"].append(problem_of(error).replace(f"'{text}'", name).rstrip("."))
            continue
        gaps = [number for number, line in enumerate(lines, start=1) if not line.strip()]
        if len(gaps) == len(lines):
            faulty["empty"].append(name)
        elif gaps:
            faulty["gaps"].append(f"{name} line {gaps[0]}")
        literal = next((number for number, line in enumerate(lines, start=1) if is_bytes_literal(line)), None)
        if literal is not None:
            faulty["literal"].append(f"{name} line {literal}")
    return [
        Finding("error", what, f"{len(names):,} of {len(described):,} {said}: {first_few(names)}", expected, fix)
        for (said, expected, fix), names in zip(_FAULTS.values(), faulty.values(), strict=True)
        if names
    ]


def check_described_pictures(what: str, home: Path) -> list[Finding]:
    """Whether the pictures that have a text decode, where the split itself can not be read."""
    files = [path for pictures in pairs_below(home)[0].values() for path in pictures]
    return check_decoding(what, PictureFiles(files), list(range(len(files))), "error")
