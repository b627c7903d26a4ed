"""A clean dataset, built once and copied for every test that damages it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.framework.checking.builder import build


@pytest.fixture(scope="session")
def _clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("clean") / "Dataset001_Balls")


@pytest.fixture
def dataset(_clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_clean, tmp_path / _clean.name))
