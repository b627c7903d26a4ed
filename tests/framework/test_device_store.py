"""Cases held on a device (here the CPU plays it) give the batches that files give."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.augmentation import Augmentation
from framework.data.device_store import DeviceStore, why_not_on_device
from framework.data.labels import Labels
from framework.data.patch_batches import PatchBatches
from framework.data.store import CaseStore, write_case
from framework.device import execution_for, free_memory
from framework.device_batches import batches_on_device
from framework.training_settings import TrainingSettings
from tests.framework.test_patch_batches import TWO_LABELS, equal
from tests.framework.test_store import arrays, properties

CPU = torch.device("cpu")
PATCH = (8, 16, 14)


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    for seed, case in enumerate(("a", "b", "c")):
        data, segmentation = arrays(seed, (2, 12, 20, 18 - seed))
        write_case(tmp_path, case, data, segmentation, properties(segmentation), PATCH)
    return CaseStore(tmp_path, mode="packed")


def maker(store: CaseStore | DeviceStore, preset: str) -> PatchBatches:
    return PatchBatches(
        store=store,
        case_names=["a", "b", "c"],
        labels=Labels.from_dataset_json({"labels": TWO_LABELS}),
        patch_size=PATCH,
        batch_size=3,
        augmentation=Augmentation.from_plans(preset, PATCH),
    )


def test_a_device_store_reads_what_files_hold(store: CaseStore):
    held = DeviceStore(store, CPU)
    held.prepare()
    box = (slice(2, 9), slice(0, 20), slice(3, 16))
    for case in ("a", "c"):
        assert held.shape(case) == store.shape(case)
        for wanted_box in (None, box):
            for found, expected in zip(held.read(case, wanted_box), store.read(case, wanted_box)):
                assert isinstance(found, torch.Tensor)
                np.testing.assert_array_equal(found.numpy(), expected)
        assert held.class_locations(case).keys() == store.class_locations(case).keys()
    assert held.explain() == "3 cases are held on cpu: 119.5 KiB, as asked for."


@pytest.mark.parametrize("preset", ["default", "none"])
def test_batches_cut_on_the_device_equal_those_from_files_bitwise(store: CaseStore, preset: str):
    on_device, from_files = maker(DeviceStore(store, CPU), preset), maker(store, preset)
    assert on_device.in_this_process
    assert not from_files.in_this_process
    execution = dataclasses.replace(execution_for(TrainingSettings(), CPU), finish_on_device=True, num_workers=4)
    batches = batches_on_device(on_device, CPU, execution)
    for iteration in range(6):
        assert equal(next(batches), from_files(iteration))
    batches.close()
    data, _ = DeviceStore(store, CPU).read("a")
    assert np.array_equal(data.numpy(), store.read("a")[0])


def test_augmentation_does_not_change_the_cases_on_the_device(store: CaseStore):
    held = DeviceStore(store, CPU)
    batches = maker(held, "default")
    for iteration in range(6):
        batches(iteration)
    for case in ("a", "b", "c"):
        np.testing.assert_array_equal(held.read(case)[0].numpy(), store.read(case)[0])


def test_cases_go_to_the_device_only_if_half_of_its_memory_suffices(store: CaseStore):
    needed = store.num_bytes()
    cuda = torch.device("cuda", 0)
    assert why_not_on_device(store, cuda, 2 * needed) is None
    assert why_not_on_device(store, CPU, free_memory(CPU)) is None
    assert "need the CPU" in str(why_not_on_device(store, cuda, 10 * needed, needs_cpu=True))
    assert why_not_on_device(store, cuda, 2 * needed - 2) == (
        "training.store is 'device', but the 3 cases need 119.5 KiB, and cuda:0 has 239.1 KiB free, "
        "of which cases may take 50%"
    )
