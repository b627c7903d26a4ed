"""Where a converted dataset goes: built beside its place, and moved there when it is complete."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from framework.errors import DatasetError
from framework.roots import known_datasets, raw_root


def target_folder(name: str, source: Path, overwrite: bool) -> Path:
    """The folder of the new raw dataset.

    Raises:
        DatasetError: the name is no ``DatasetXXX_Name``, its number is taken by another dataset, or it exists
            and should not be overwritten.
    """
    if not re.fullmatch(r"Dataset\d{3}_[^/\\]+", name):
        raise DatasetError(
            f"'{name}' is no name of a dataset. Expected DatasetXXX_Name, such as Dataset004_Hippocampus."
        )
    folder = raw_root().resolve() / name
    others = [other for other in known_datasets() if other[:10] == name[:10] and other != name]
    if others:
        raise DatasetError(
            f"the number {name[7:10]} is taken by {', '.join(others)}. Choose another: -overwrite_id N, or "
            "fw_convert INPUT DatasetXXX_Name."
        )
    if folder.exists() and not overwrite:
        raise DatasetError(f"{folder} exists. Pass --overwrite to replace it, or give another name.")
    if folder == source or folder in source.parents:
        raise DatasetError(f"{source} lies in the folder that would be replaced, {folder}. Move it elsewhere first.")
    return folder


@contextmanager
def built_beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends well, and is removed when it does not.

    An existing `folder` is moved aside first and removed last, so that it is lost at no moment.
    """
    token = secrets.token_hex(4)
    temporary, aside = (folder.parent / f".{folder.name}.{token}.{kind}" for kind in ("tmp", "old"))
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.rename(aside)
        temporary.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
