"""A cross-validation of two configurations on the disk, with the roots pointing to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.builders import use_roots
from tests.interop.selection_cases import CROSS_VALIDATIONS


@pytest.fixture(scope="session")
def written_cross_validations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Written once for all tests; not to be changed."""
    folders = {}
    for name, cross_validation in CROSS_VALIDATIONS.items():
        folders[name] = tmp_path_factory.mktemp("cross_validation")
        cross_validation.write(folders[name])
    return folders


@pytest.fixture
def plain(written_cross_validations: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the one with plain labels; its results folder."""
    return copied("plain", written_cross_validations, tmp_path, monkeypatch)


def copied(name: str, written: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "roots"
    shutil.copytree(written[name], root)
    use_roots(root, monkeypatch)
    return root / "results" / CROSS_VALIDATIONS[name].name
