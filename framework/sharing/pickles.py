"""Pickles in a bundle: plain values, and the one function that nnU-Net's post-processing files name."""

from __future__ import annotations

from pathlib import Path

from framework.data.restricted_pickle import load_pickle, loads
from framework.errors import FoldwiseError


def check_pickle(path: Path, name: str) -> None:
    """Refuse a pickle that could run code when nnU-Net or another program loads it.

    Args:
        name: what to call it in messages.

    Raises:
        FoldwiseError: it names anything but plain values, numpy arrays, and nnU-Net's rule for components.
    """
    if path.name == "postprocessing.pkl" and _is_postprocessing(path.read_bytes()):
        return
    try:
        load_pickle(path)
    except FoldwiseError as error:
        raise FoldwiseError(str(error).replace(str(path), name)) from None


_RULE = object()
_RULES_HOME = (
    "nnunetv2.postprocessing.remove_connected_components",
    "remove_all_but_largest_component_from_segmentation",
)


def _is_postprocessing(content: bytes) -> bool:
    """Whether it is ``([function, ...], [its arguments, ...])`` with the known function only."""
    try:
        functions, arguments = loads(content, also={_RULES_HOME: _RULE})
        return all(function is _RULE for function in functions) and all(isinstance(entry, dict) for entry in arguments)
    except (FoldwiseError, TypeError, ValueError):
        return False
