"""With what a training was run, so that a resumed run can tell what is no longer the same."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import framework


def software_versions() -> dict[str, str]:
    """Versions of what decides on the numbers of a training."""
    import numpy
    import torch

    return {
        "foldwise": framework.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def digest(parts: Iterable[Any]) -> str:
    """A short name for a sequence of plain values: equal for equal sequences, on any machine."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(repr(part).encode())
        hashed.update(b"\0")
    return hashed.hexdigest()[:16]


def what_has_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One sentence for each difference of two records; entries that only one of them has are passed over.

    Args:
        then, now: ``{"versions": {name: version}, "data": {what: digest}}``.
    """
    messages = []
    old, new = then.get("versions", {}), now.get("versions", {})
    changed = [f"{name} {old[name]} -> {new[name]}" for name in old if name in new and old[name] != new[name]]
    if changed:
        messages.append(
            f"this run was begun with other versions ({', '.join(changed)}); it goes on, but not bit by bit as it "
            "would have with the old ones."
        )
    old, new = then.get("data", {}), now.get("data", {})
    changed = [name for name in old if name in new and old[name] != new[name]]
    if changed:
        messages.append(
            f"since the checkpoint was written {' and '.join(changed)} have changed; the run goes on with what is "
            "there now. If that is not meant, put the data back, or start anew without --c."
        )
    return messages
