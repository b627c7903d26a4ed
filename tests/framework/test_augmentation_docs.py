"""docs/augmentation.md names every transform with every number and its default, and its examples work."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.augmentation import Augmentation
from framework.augmentation.block import TRANSFORMS, preset_names
from framework.randomness import generator

PAGE = (Path(__file__).resolve().parents[2] / "docs/augmentation.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (`probability`.*?|as `contrast`.*?) \|", PAGE, re.MULTILINE))


def test_every_transform_and_preset_has_its_row() -> None:
    assert set(ROWS) == set(TRANSFORMS)
    assert all(f"\n| `{preset}` |" in PAGE for preset in preset_names())


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "contrast_unclipped"])
def test_numbers_and_defaults_are_those_of_the_code(name: str) -> None:
    told = {key: json.loads(value) for key, value in re.findall(r"`(\w+)` (\[.*?\]|[\w.]+)", ROWS[name])}
    fields: Any = dataclasses.fields(TRANSFORMS[name])
    defaults = {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default for field in fields
    }
    assert told == defaults


def test_examples_can_be_read_and_used(tmp_path: Path) -> None:
    code = re.search(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    Path(code[1]).write_text(code[2])  # every test runs in a folder of its own
    examples = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    for text in examples:
        augmentation = Augmentation.from_plans(json.loads(text), (8, 8, 8))
        for n in range(30):
            image, labels = torch.rand(1, 8, 8, 8), torch.zeros(1, 8, 8, 8, dtype=torch.int16)
            augmentation.apply_intensities(image, augmentation.draw(generator(0, "training", n), 1), labels)
            assert torch.isfinite(image).all()
