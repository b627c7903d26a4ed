"""Batches are a pure function of the iteration, image and label stay aligned, broken cases are named."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from framework.augmentation import Augmentation
from framework.data.labels import LabelKey, Labels
from framework.data.patch_batches import PatchBatches, ReadPatches, SampleRecipe
from framework.errors import CaseError, DatasetError

TWO_LABELS = {"background": 0, "one": 1, "two": 2}


class MemoryStore:
    """Cases in memory, with the interface of the store of preprocessed cases."""

    def __init__(self, cases: dict[str, tuple[np.ndarray, np.ndarray]], keys: tuple[LabelKey, ...] = (1, 2)) -> None:
        self.cases, self.keys = cases, keys
        self.device: torch.device | None = None
        self.boxes: list[tuple[slice, ...]] = []

    def shape(self, case: str) -> tuple[int, ...]:
        return self.cases[case][0].shape

    def read(self, case: str, box: tuple[slice, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert box is not None
        data, segmentation = self.cases[case]
        assert all(0 <= part.start < part.stop <= n for part, n in zip(box, data.shape[1:]))
        self.boxes.append(box)
        return data[(slice(None), *box)], segmentation[(slice(None), *box)]

    def class_locations(self, case: str) -> dict[LabelKey, np.ndarray]:
        segmentation = self.cases[case][1]
        found: dict[LabelKey, Any] = {}
        for key in self.keys:
            rows = np.argwhere(np.isin(segmentation, key))
            found[key] = rows if len(rows) else []
        return found


def make_store(shape: tuple[int, ...] = (20, 24, 22), channels: int = 2, count: int = 3) -> MemoryStore:
    rng = np.random.default_rng(0)
    cases = {}
    for index in range(count):
        segmentation = np.zeros((1, *shape), np.int16)
        segmentation[0, : max(1, shape[0] // 3), 2:9, 3:12] = 1
        segmentation[0, -1:, -6:, -6:] = 2
        segmentation[0, :, 0] = -1
        data = rng.standard_normal((channels, *shape)).astype(np.float32)
        cases[f"case_{index}"] = (data, segmentation)
    return MemoryStore(cases)


def make_batches(
    store: Any, patch: tuple[int, ...] = (12, 14, 10), preset: Any = "default", **changes: Any
) -> PatchBatches:
    arguments: dict[str, Any] = {
        "store": store,
        "case_names": list(getattr(store, "cases", None) or store.case_names),
        "labels": Labels.from_dataset_json({"labels": TWO_LABELS}),
        "patch_size": patch,
        "batch_size": 4,
        "augmentation": None if preset is None else Augmentation.from_plans(preset, patch),
        "seed": 7,
    }
    return PatchBatches(**{**arguments, **changes})


def equal(first: Any, second: Any) -> bool:
    return (
        torch.equal(first.data, second.data)
        and torch.equal(first.target, second.target)
        and first.case_names == second.case_names
    )


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((20, 24, 22), (12, 14, 10)),
        ((20, 24, 22), (16, 12)),
        ((20, 24, 22), (4, 14, 14)),
        ((5, 6, 7), (12, 14, 10)),
        ((1, 24, 22), (8, 8, 8)),
        ((1, 6, 22), (16, 16)),
    ],
)
def test_shapes_and_types_of_a_batch(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    batches = make_batches(make_store(shape), patch)
    for iteration in range(12):
        batch = batches(iteration)
        assert batch.data.shape == (4, 2, *patch)
        assert batch.target.shape == (4, 1, *patch)
        assert (batch.data.dtype, batch.target.dtype) == (torch.float32, torch.int16)
        assert torch.isfinite(batch.data).all()
        assert set(batch.target.unique().tolist()) <= {0, 1, 2}
        assert len(batch.case_names) == len(batch) == 4


def test_a_batch_depends_on_its_iteration_alone() -> None:
    forwards = [make_batches(make_store())(iteration) for iteration in range(6)]
    batches = make_batches(make_store())
    for iteration in (5, 3, 3, 0, 1, 4, 2):
        assert equal(batches(iteration), forwards[iteration])
    assert not equal(forwards[0], forwards[1])


def test_other_seeds_and_streams_give_other_batches() -> None:
    batch = make_batches(make_store())(0)
    assert not equal(batch, make_batches(make_store(), seed=8)(0))
    assert not equal(batch, make_batches(make_store(), stream="validation")(0))


def test_ranks_make_the_samples_of_one_process() -> None:
    whole = make_batches(make_store(), batch_size=5)
    parts = [whole.share(rank, 2) for rank in range(2)]
    for iteration in range(4):
        batch = whole(iteration)
        made = [part(iteration) for part in parts]
        assert [len(part) for part in made] == [3, 2]
        assert torch.equal(batch.data, torch.cat([part.data for part in made]))
        assert torch.equal(batch.target, torch.cat([part.target for part in made]))


def test_a_pickled_maker_makes_the_same_batches() -> None:
    batches = make_batches(make_store())
    expected = batches(3)
    assert equal(pickle.loads(pickle.dumps(batches))(3), expected)


def test_another_process_makes_the_same_batches() -> None:
    batches = make_batches(make_store())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        data, target = pool.apply(_as_arrays, (batches, 3))
    expected = batches(3)
    assert np.array_equal(data, expected.data.numpy())
    assert np.array_equal(target, expected.target.numpy())


def _as_arrays(batches: PatchBatches, iteration: int) -> tuple[np.ndarray, np.ndarray]:
    torch.set_num_threads(1)
    batch = batches(iteration)
    return batch.data.numpy(), batch.target.numpy()


def test_augmentation_does_not_change_where_patches_are_cut() -> None:
    plain, augmented = make_batches(make_store(), preset="none"), make_batches(make_store())
    for iteration in range(5):
        first, second = plain.recipes(iteration), augmented.recipes(iteration)
        assert [(r.case_name, r.patch, r.forced_foreground) for r in first] == [
            (r.case_name, r.patch, r.forced_foreground) for r in second
        ]


def test_recipes_are_plain_and_read_no_voxels() -> None:
    store = make_store()
    recipe = make_batches(store).recipe(10**9)
    assert isinstance(recipe, SampleRecipe)
    assert store.boxes == []
    assert "case_name='case_" in repr(recipe)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_samples_without_rotation_and_scaling_read_exactly_their_patch() -> None:
    store = make_store((40, 40, 40))
    batches = make_batches(store, (8, 9, 10), {"preset": "default", "rotation": None, "scaling": None})
    for iteration in range(10):
        batches(iteration)
    sizes = {tuple(part.stop - part.start for part in box) for box in store.boxes}
    # Forced patches may overhang at the far border and then read less.
    assert max(sizes) == (8, 9, 10)
    assert all(size <= (8, 9, 10) for size in sizes)


def test_values_of_a_plain_patch_are_the_images() -> None:
    store = make_store((14, 24, 9))
    batches = make_batches(store, (16, 12, 10), preset=None, stream="validation")
    for iteration in range(10):
        batch = batches(iteration)
        for slot, recipe in enumerate(batches.recipes(iteration)):
            data, segmentation = store.cases[recipe.case_name]
            data = np.pad(data, ((0, 0), (20, 20), (20, 20), (20, 20)))
            target = np.pad(segmentation[0], 20).clip(0)
            part = tuple(slice(c + 20, c + 20 + n) for c, n in zip(recipe.patch.corner, (16, 12, 10)))
            np.testing.assert_array_equal(batch.data[slot], data[(slice(None), *part)])
            np.testing.assert_array_equal(batch.target[slot, 0], target[part])


@pytest.mark.parametrize("patch", [(12, 14, 10), (14, 10)])
def test_forced_samples_show_the_chosen_voxel_and_others_need_not(patch: tuple[int, ...]) -> None:
    batches = make_batches(make_store(), patch, preset=None)
    labels = set()
    for iteration in range(40):
        batch = batches(iteration)
        for slot, recipe in enumerate(batches.recipes(iteration)):
            assert recipe.forced_foreground == (slot >= 3)  # round(4 * 0.67) = 3 are free
            if recipe.forced_foreground:
                voxel, label = recipe.patch.voxel, recipe.patch.label
                assert voxel is not None
                place = [v - c for v, c in zip(voxel, recipe.patch.corner)]
                assert batch.target[slot, 0][tuple(place[-len(patch) :])] == label
                labels.add(label)
            else:
                assert recipe.patch.voxel is None
    assert labels == {1, 2}


@pytest.mark.parametrize("patch", [(24, 25, 26), (6, 26, 25), (26, 25)])
def test_a_marked_spot_lies_at_the_same_place_in_image_and_label(patch: tuple[int, ...]) -> None:
    shape = (1 if len(patch) == 2 else 24, 30, 28)
    # A bright ball of its own label, off the centre; grey values are the label's, so both can be compared.
    position = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    ball = np.linalg.norm(position - np.array([shape[0] // 2, 11, 17]).reshape(3, 1, 1, 1), axis=0) <= 5
    store = MemoryStore({"case": (ball[None].astype(np.float32), ball[None].astype(np.int16))})
    batches = make_batches(
        store,
        patch,
        {"rotation": {"probability": 1}, "scaling": {"probability": 0.5}, "mirroring": {}},
        batch_size=2,
    )
    for iteration in range(25):
        batch = batches(iteration)
        for slot, recipe in enumerate(batches.recipes(iteration)):
            assert recipe.augmentation.spatial is not None
            image, target = batch.data[slot, 0], batch.target[slot, 0]
            if target.sum() < 20:
                continue
            # Linear interpolation of a 0/1 image is above one half exactly where the label wins.
            assert torch.equal(image > 0.5 + 1e-3, (target == 1) & (image > 0.5 + 1e-3))
            assert torch.equal(image < 0.5 - 1e-3, (target == 0) & (image < 0.5 - 1e-3))


def test_mirroring_flips_image_and_label_along_the_drawn_axes() -> None:
    store = make_store()
    plain, mirrored = make_batches(store, preset="none"), make_batches(store, preset={"mirroring": {}})
    seen = set()
    for iteration in range(6):
        first, second = plain(iteration), mirrored(iteration)
        for slot, recipe in enumerate(mirrored.recipes(iteration)):
            axes = [1 + axis for axis in recipe.augmentation.mirror_axes]
            assert torch.equal(second.data[slot], first.data[slot].flip(axes))
            assert torch.equal(second.target[slot], first.target[slot].flip(axes))
            seen.add(recipe.augmentation.mirror_axes)
    assert len(seen) >= 6


def test_masked_channels_are_zero_outside_of_the_mask_in_training() -> None:
    store = make_store()
    noisy = {"noise": {"probability": 1, "standard_deviation": [0.1, 0.1]}, "rotation": {"probability": 0.5}}
    plain = make_batches(store, preset=noisy)
    masked = make_batches(store, preset=noisy, use_mask_for_norm=(False, True))
    found = False
    for iteration in range(5):
        free, cut, raw = plain(iteration), masked(iteration), masked.read(iteration)
        assert torch.equal(cut.data[:, 0], free.data[:, 0])
        changed = cut.data[:, 1] != free.data[:, 1]
        assert (cut.data[:, 1][changed] == 0).all()
        for slot, recipe in enumerate(raw.recipes):
            if recipe.augmentation.spatial is None:
                outside = raw.segmentation[slot, 0] < 0
                found |= bool(outside.any())
                assert (cut.data[slot, 1][outside] == 0).all()
                assert torch.equal(cut.data[slot, 1][~outside], free.data[slot, 1][~outside])
    assert found


def test_regions_and_the_ignore_label_become_channels() -> None:
    store = make_store()
    for _, segmentation in store.cases.values():
        segmentation[0, :, 20:] = 3
    labels = Labels.from_dataset_json(
        {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]}
    )
    store.keys = ((1, 2), 2, (-1, 0, 1, 2))
    regions = make_batches(store, labels=labels, preset="default")
    plain = Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3}})
    as_labels = make_batches(store, labels=plain, preset="default")
    as_labels._annotated = regions._annotated  # the same positions
    for iteration in range(4):
        target, label_map = regions(iteration).target, as_labels(iteration).target[:, 0]
        assert target.dtype == torch.bool
        assert target.shape[1] == 3
        assert torch.equal(target[:, 0], (label_map == 1) | (label_map == 2))
        assert torch.equal(target[:, 1], label_map == 2)
        assert torch.equal(target[:, 2], label_map == 3)


def test_with_an_ignore_label_free_patches_lie_around_annotated_voxels() -> None:
    store = make_store((40, 40, 40))
    for _, segmentation in store.cases.values():
        segmentation[:] = 3
        segmentation[0, 20, 20, :] = 0
        segmentation[0, 20, 20, 5] = 1
    labels = Labels.from_dataset_json({"labels": {**TWO_LABELS, "ignore": 3}})
    store.keys = (1, 2, (-1, 0, 1, 2))
    for recipe in make_batches(store, (8, 8, 8), labels=labels).recipes(0):
        assert recipe.patch.label == (1 if recipe.forced_foreground else (-1, 0, 1, 2))
        assert recipe.patch.corner[:2] == (16, 16)


def test_a_case_without_foreground_gives_random_patches() -> None:
    store = make_store()
    for _, segmentation in store.cases.values():
        segmentation[:] = 0
    recipes = [recipe for i in range(10) for recipe in make_batches(store).recipes(i)]
    assert all(recipe.patch.voxel is None for recipe in recipes)
    assert len({recipe.patch.corner for recipe in recipes}) > 30


def test_every_case_is_drawn_equally_often() -> None:
    batches = make_batches(make_store(count=4), preset=None, batch_size=10)
    names = [recipe.case_name for i in range(400) for recipe in batches.recipes(i)]
    counts = np.array([names.count(name) for name in sorted(set(names))])
    assert len(counts) == 4
    assert abs(counts - 1000).max() < 120


def test_validation_uses_the_same_rules_and_changes_nothing() -> None:
    batches = make_batches(make_store(), preset=None, stream="validation")
    for recipe in batches.recipes(0):
        assert recipe.augmentation.spatial is None
        assert recipe.augmentation.mirror_axes == ()
        assert recipe.augmentation.intensities == ()


@pytest.mark.parametrize("error", [RuntimeError("blosc2: broken frame"), OSError("no such file"), KeyError("x")])
def test_a_case_that_cannot_be_read_is_named(error: Exception) -> None:
    class BrokenStore(MemoryStore):
        def read(self, case: str, box: tuple[slice, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
            raise error

    store = BrokenStore(make_store(count=1).cases)
    with pytest.raises(CaseError, match=rf"case 'case_0': it cannot be read \({type(error).__name__}"):
        make_batches(store)(0)


def test_cases_that_do_not_fit_together_are_named() -> None:
    store = make_store(count=2)
    data, segmentation = store.cases["case_1"]
    store.cases["case_1"] = (data[:1], segmentation)
    with pytest.raises(CaseError, match=r"'case_[01]': it has [12] channels, other cases have [12]"):
        list(map(make_batches(store), range(10)))
    store.cases["case_1"] = (data, segmentation[:, :5])
    with pytest.raises(CaseError, match="'case_1': its segmentation ends before"):
        list(map(make_batches(store), range(10)))


def test_an_empty_list_of_cases_is_refused() -> None:
    with pytest.raises(DatasetError, match="no case to draw validation batches from"):
        make_batches(make_store(), case_names=[], stream="validation")


def test_reading_and_finishing_can_happen_apart() -> None:
    batches = make_batches(make_store())
    patches = pickle.loads(pickle.dumps(batches.read(2)))
    assert equal(batches.finish(patches.to("cpu")), batches(2))


def test_what_was_read_of_a_sample_is_gone_before_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_batches(make_store(), preset={"rotation": {"probability": 1}})
    held: list[int] = []
    read_sample = ReadPatches.read_sample

    def watched(patches: ReadPatches, *arguments: Any, **options: Any) -> None:
        held.append(len(patches.boxes))
        read_sample(patches, *arguments, **options)

    monkeypatch.setattr(ReadPatches, "read_sample", watched)
    batches(0)
    assert held == [0, 0, 0, 0]


def test_long_patches_that_are_read_in_several_parts_hold_the_images_voxels() -> None:
    store = make_store((200, 10, 9), channels=1, count=1)
    batches = make_batches(store, patch=(150, 8, 8), preset="none")
    data, segmentation = store.cases["case_0"]
    parts = set()
    for iteration in range(4):
        store.boxes.clear()
        batch = batches(iteration)
        parts.add(len(store.boxes) / len(batch))
        for slot, recipe in enumerate(batches.recipes(iteration)):
            inside = [slice(max(start, 0), min(stop, n)) for (start, stop), n in zip(recipe.box, data.shape[1:])]
            shown = tuple(slice(part.start - start, part.stop - start) for part, (start, _) in zip(inside, recipe.box))
            assert np.array_equal(batch.data[slot, 0][shown], data[0][tuple(inside)])
            assert np.array_equal(batch.target[slot, 0][shown], segmentation[0][tuple(inside)].clip(0))
            overhang = np.ones(batches.patch_size, bool)
            overhang[shown] = False
            assert (batch.data[slot, 0].numpy()[overhang] == 0).all()
    assert min(parts) > 1


def test_a_jump_to_iteration_one_million_costs_nothing() -> None:
    import time

    batches = make_batches(make_store())
    batches(0)
    start = time.perf_counter()
    batches(1_000_000)
    assert time.perf_counter() - start < 1
