"""Names inside a stranger's zip: which of them may become files here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST_PART, LONGEST_NAME = 200, 1000
"""Bytes of one folder or file name, and of the whole; file systems take 255 and 4096, results folders need some."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


def why_refused(name: str) -> str | None:
    """Why a member of this name is not unpacked, or None. A folder's name ends with ``/``.

    Accepted is what means the same file, below the folder that is unpacked into, on every system.
    """
    path = name.removesuffix("/")
    if re.match(r"[A-Za-z]:", path):
        return "its name starts with a drive letter"
    if path.startswith(("/", "\\")):
        return "its path is absolute"
    parts = re.split(r"[/\\]", path)
    if ".." in parts:
        return "its path leads out of the folder (..)"
    if _FORBIDDEN.search(path):
        return "its name holds a character that is not allowed in file names everywhere"
    if "" in parts or "." in parts:
        return "its path has an empty part"
    if len(path.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        return f"its path is longer than {LONGEST_NAME} bytes"
    for part in parts:
        if len(part.encode("utf-8", "surrogatepass")) > LONGEST_PART:
            return f"a part of its path is longer than {LONGEST_PART} bytes"
        if _RESERVED.fullmatch(part) or part.endswith((".", " ")):
            return f"'{part}' is no file name on every system"
    return None


def colliding_names(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are one file on some systems (capitals, forms of accents), or a file that is a folder too."""
    seen: dict[str, str] = {}
    names = list(names)
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        if folded in seen:
            return seen[folded], name
        seen[folded] = name
    for folded, name in seen.items():
        while "/" in folded:
            folded = folded.rpartition("/")[0]
            if folded in seen:
                return seen[folded], name
    return None


def printable(text: object, longest: int = 2000) -> str:
    """A stranger's text for the terminal: no control characters, which could repaint the screen, and not endless."""
    cleaned = "".join(
        letter if letter == "\n" or not unicodedata.category(letter).startswith("C") else "?" for letter in str(text)
    )
    return cleaned if len(cleaned) <= longest else f"{cleaned[:longest]} ..."
