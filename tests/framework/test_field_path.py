from __future__ import annotations

from typing import Any

import pytest

from framework.augmentation import Augmentation
from framework.commands.common import parse_overrides
from framework.errors import PlansError
from framework.field_path import keys_of
from framework.plans import Plans
from tests.framework.test_plans import small_plans

RICIAN = "batchgenerators.transforms.noise_transforms:RicianNoiseTransform"


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("batch_size", ["batch_size"]),
        ("training.optimizer.lr", ["training", "optimizer", "lr"]),
        ("augmentation.my_module:Clip.level", ["augmentation", "my_module:Clip", "level"]),
        ('augmentation["a.b:C"].level', ["augmentation", "a.b:C", "level"]),
        ("augmentation['folder/a.py:C'].level", ["augmentation", "folder/a.py:C", "level"]),
        ("augmentation[a.b:C].level", ["augmentation", "a.b:C", "level"]),  # a shell took the quotes away
        ('augmentation["a.b:C"]["level"]', ["augmentation", "a.b:C", "level"]),
        ('augmentation["a.b:C"]', ["augmentation", "a.b:C"]),
    ],
)
def test_a_key_with_dots_stands_in_brackets(path: str, keys: list[str]) -> None:
    assert keys_of(path) == keys


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("training..num_epochs", "a name is missing after 'training.'"),
        (".num_epochs", "a name is missing at its beginning"),
        ("training.", "a name is missing after 'training.'"),
        ('augmentation["a.b:C.level', "a bracket is not closed after 'augmentation'"),
        ("augmentation[].level", "a bracket is not closed after 'augmentation'"),
        ('augmentation["a.b:C"]level', """a dot is missing after 'augmentation["a.b:C"]'"""),
        (f"augmentation.{RICIAN}.p_per_sample", f"""--set 'augmentation["{RICIAN}"].p_per_sample=VALUE'"""),
        ("augmentation.my_transforms.py:Clip", """--set 'augmentation["my_transforms.py:Clip"]=VALUE'"""),
    ],
)
def test_a_path_that_cannot_be_read_is_told_with_what_would_be_right(path: str, part: str) -> None:
    with pytest.raises(PlansError) as caught:
        Plans.from_dict(small_plans()).with_overrides("3d_fullres", {path: 1})
    assert f"--set {path}: " in str(caught.value)
    assert part in str(caught.value)


def test_one_number_of_a_transform_named_by_its_path_can_be_set() -> None:
    options = [f'augmentation["{RICIAN}"].p_per_sample=0.3', f"augmentation[{RICIAN}].noise_variance=[0, 0.2]"]
    plans = Plans.from_dict(small_plans()).with_overrides("3d_fullres", parse_overrides(options))
    block: Any = plans.configuration("3d_fullres").augmentation
    assert block == {"preset": "default", RICIAN: {"p_per_sample": 0.3, "noise_variance": [0, 0.2]}}
    transform: Any = Augmentation.from_plans(block, (16, 16, 16)).intensities[RICIAN]
    assert transform.probability == 0.3
    assert transform.transform.noise_variance == (0, 0.2)


def test_a_number_replaces_that_of_the_plan_and_the_others_stay() -> None:
    raw = small_plans()
    raw["configurations"]["3d_fullres"]["augmentation"] = {RICIAN: {"p_per_sample": 0.1, "noise_variance": [0, 0.5]}}
    changed = Plans.from_dict(raw).with_overrides("3d_fullres", {f'augmentation["{RICIAN}"].p_per_sample': 0.4})
    block: Any = changed.configuration("3d_fullres").augmentation
    assert block[RICIAN] == {"p_per_sample": 0.4, "noise_variance": [0, 0.5]}


def test_a_number_of_the_recipe_keeps_the_rest_of_it_where_the_plan_says_nothing() -> None:
    # nnU-Net's plans files have no such block.
    changed = Plans.from_dict(small_plans()).with_overrides("3d_fullres", {"augmentation.gamma.probability": 0.5})
    augmentation = Augmentation.from_plans(changed.configuration("3d_fullres").augmentation, (16, 16, 16))
    default = Augmentation.from_plans("default", (16, 16, 16))
    assert list(augmentation.intensities) == list(default.intensities)
    gamma: Any = augmentation.intensities["gamma"]
    assert gamma.probability == 0.5
    assert augmentation.rotation == default.rotation
