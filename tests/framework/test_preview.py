"""The picture of training patches, the times of the stages, and the command that shows both."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.augmentation import Augmentation
from framework.commands.preview import main as fw_preview
from framework.data.labels import Labels
from framework.data.patch_batches import PatchBatches
from framework.evaluation.preview import PatchTile, draw_patches
from framework.evaluation.stage_times import STAGES, measure_stages
from tests.builders import TINY, make_tiny_dataset, overrides_as_options, use_roots


def tile(shape: tuple[int, ...], brightness: float = 0.0) -> PatchTile:
    image = np.random.default_rng(0).normal(brightness, 1, shape).astype(np.float32)
    masks = np.zeros((2, *shape), bool)
    masks[0, ..., 3:7, 2:6] = True
    masks[1, ..., 8:10, 8:10] = True
    return PatchTile(image, masks, "case_1", "rot 12°, scale 0.8, " * 12)


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    from matplotlib.colors import to_rgb

    return bool((np.abs(pixels[..., :3] - to_rgb(colour)).max(-1) < 0.03).any())


@pytest.mark.parametrize(("shape", "spacing"), [((6, 12, 14), (3.0, 1.0, 0.8)), ((12, 14), (1.0, 1.0))])
@pytest.mark.parametrize("count", [1, 5])
def test_picture_shows_the_outline_of_every_class_without_touching_pyplot(
    tmp_path: Path, shape: tuple[int, ...], spacing: tuple[float, ...], count: int
) -> None:
    from matplotlib.image import imread

    path = tmp_path / "pictures" / "preview.png"
    draw_patches(path, [tile(shape, number) for number in range(count)], ["one", "two"], spacing, "a title")
    pixels = imread(path)
    assert has_colour(pixels, "#56b4e9")
    assert has_colour(pixels, "#f0a030")
    assert "matplotlib.pyplot" not in sys.modules
    assert [file.name for file in path.parent.iterdir()] == ["preview.png"]


def test_patches_without_foreground_show_their_middle(tmp_path: Path) -> None:
    empty = PatchTile(np.zeros((5, 8, 8), np.float32), np.zeros((1, 5, 8, 8), bool), "case", "as it is")
    draw_patches(tmp_path / "preview.png", [empty], ["one"], (1, 1, 1), "")
    assert (tmp_path / "preview.png").stat().st_size > 1000


class SlowStore:
    """Reading takes a while; everything else is quick."""

    device = None

    def shape(self, case: str) -> tuple[int, ...]:
        return (1, 16, 16, 16)

    def read(self, case: str, box: tuple[slice, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
        import time

        assert box is not None
        time.sleep(0.02)
        lengths = [part.stop - part.start for part in box]
        return np.zeros((1, *lengths), np.float32), np.zeros((1, *lengths), np.int16)

    def class_locations(self, case: str) -> dict[Any, np.ndarray]:
        return {}


def test_times_go_to_the_stage_that_took_them_and_threads_are_put_back() -> None:
    batches = PatchBatches(
        store=SlowStore(),
        case_names=["case"],
        labels=Labels.from_dataset_json({"labels": {"background": 0, "one": 1}}),
        patch_size=(8, 8, 8),
        batch_size=2,
        augmentation=Augmentation.from_plans("strong", (8, 8, 8)),
    )
    threads = torch.get_num_threads()
    times = measure_stages(batches, max_batches=3)
    assert torch.get_num_threads() == threads
    assert tuple(times.milliseconds) == STAGES
    assert times.num_batches == 3
    assert times.milliseconds["read"] >= 40  # two samples of a batch, 20 ms each
    assert times.total_milliseconds >= 40
    assert times.batches_per_second == pytest.approx(1000 / times.total_milliseconds)
    table = times.table()
    for word in (*STAGES, "whole batch", "batches per second with one worker"):
        assert word in table


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset, planned and preprocessed by the command itself."""
    folder = tmp_path_factory.mktemp("preview")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        options = ["-p", "laptop", *overrides_as_options(TINY), "-o", str(folder / "first.png")]
        assert fw_preview(["7", "3d_fullres", *options, "--samples", "3"]) == 0
    return folder


@pytest.fixture
def options(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    use_roots(prepared, monkeypatch)
    return ["7", "3d_fullres", "-p", "laptop", *overrides_as_options(TINY)]


def test_command_prepares_the_data_draws_and_measures_but_trains_nothing(prepared: Path) -> None:
    assert (prepared / "first.png").stat().st_size > 10_000
    assert (prepared / "preprocessed/Dataset007_Tiny/laptop.json").is_file()
    assert list((prepared / "results").iterdir()) == []


def test_command_tells_file_and_times(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fw_preview([*options[:2], "all", *options[2:], "--set", "augmentation=strong"]) == 0
    printed = capsys.readouterr().out
    assert "16 training patches: Dataset007_Tiny_3d_fullres_preview.png" in printed
    assert "batches per second with one worker" in printed
    assert (tmp_path / "Dataset007_Tiny_3d_fullres_preview.png").is_file()


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        (["--channel", "4"], "--channel 4: the images have 1"),
        (["--set", "augmentation=storng"], "Did you mean 'strong'"),
        (["--set", "patch_size"], "expected PATH=VALUE"),
    ],
)
def test_a_mistake_is_one_message(
    options: list[str], extra: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fw_preview([*options, *extra]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert part in message


@pytest.mark.parametrize("extra", [["--samples", "0"], ["-o", "preview.jpg"]])
def test_wrong_usage_is_told_before_anything_is_prepared(options: list[str], extra: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fw_preview([*options, *extra])
    assert caught.value.code == 2
