"""Names from a file that become names of files here: of cases, configurations, datasets, and endings."""

from __future__ import annotations

import re
from typing import Any

USUAL_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""nnU-Net's, in its order: where two models score the same, the first one wins."""
_LONGEST = 200
"""Bytes; file systems take 255, and we add endings."""
_ENDING = re.compile(r"(\.\w{1,10}){1,2}")


def why_no_file_name(name: Any) -> str | None:
    """Why a text cannot be the name of a file or folder, below the one that it belongs into; None if it can.

    The result ends a sentence about the name.
    """
    if not isinstance(name, str) or not name:
        return "is no name"
    if name in (".", "..") or "/" in name or "\\" in name:
        return "leads to another folder"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "holds a character that no file name can hold"
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST or any(0xD800 <= ord(letter) < 0xE000 for letter in name):
        return f"is no name of at most {_LONGEST} bytes"
    return None


def is_file_ending(ending: Any) -> bool:
    """Whether this is the ending of a file name, such as ``.nii.gz``."""
    return isinstance(ending, str) and _ENDING.fullmatch(ending) is not None
