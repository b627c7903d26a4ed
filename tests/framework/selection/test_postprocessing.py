"""The rule that decides on post-processing, against carrying out every step on the arrays."""

from __future__ import annotations

import base64
import io
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from framework.data.labels import Labels
from framework.data.restricted_pickle import UnsafePickleError
from framework.errors import FoldwiseError
from framework.evaluation.overlap import score_case
from framework.selection.postprocessing import ScoredCase, apply_steps, determine_steps
from framework.selection.postprocessing_files import as_nnunet_pickle, read_postprocessing, write_postprocessing
from tests.framework.selection.test_pieces import keep_largest_by_labelling
from tests.interop.compare_selection import GOLDEN
from tests.interop.selection_cases import CROSS_VALIDATIONS

PLAIN = Labels({"background": 0, "one": 1, "two": 2, "three": 3})
REGIONS = Labels({"background": 0, "left": (1, 2), "right": (2, 3), "middle": 2, "ignore": 4}, (1, 3, 2))


def random_cases(labels: Labels, seed: int, number: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of prediction and reference: layers, with wrong islands in the prediction."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(number):
        reference = np.zeros((6, 9, 12), np.int16)
        for label in labels.foreground_labels:
            low = random.integers(0, 3, 3) + label
            reference[low[0] : low[0] + 3, low[1] : low[1] + 4, low[2] : low[2] + 4] = label
        prediction = reference.copy()
        for _ in range(random.integers(0, 4)):
            corner = [random.integers(0, size - 2) for size in reference.shape]
            place = tuple(slice(low, low + random.integers(1, 3)) for low in corner)
            prediction[place] = random.choice([0, *labels.foreground_labels])
        if labels.ignore_label is not None:
            reference[:, :, :2] = labels.ignore_label
        pairs.append((prediction, reference))
    return pairs


def mean_dice(pairs: list[tuple[np.ndarray, np.ndarray]], labels: Labels) -> list[float]:
    scores = [score_case(*pair, labels.foreground_keys, labels.ignore_label) for pair in pairs]
    return [float(np.nanmean([score[key]["Dice"] for score in scores])) for key in labels.foreground_keys]


def decided_by_hand(pairs: list[tuple[np.ndarray, np.ndarray]], labels: Labels) -> list[set[int]]:
    """The rule, carried out on arrays."""
    accepted: list[set[int]] = []

    def without_islands(members: set[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(keep_largest_by_labelling(prediction, sorted(members)), reference) for prediction, reference in pairs]

    whole = set(labels.foreground_labels)
    before, after = mean_dice(pairs, labels), mean_dice(without_islands(whole), labels)
    if np.mean(after) > np.mean(before) and all(new >= old for new, old in zip(after, before)):
        accepted.append(whole)
        pairs = without_islands(whole)
    for index, key in enumerate(labels.foreground_keys):
        members = set(key) if isinstance(key, tuple) else {key}
        if mean_dice(without_islands(members), labels)[index] > mean_dice(pairs, labels)[index]:
            accepted.append(members)
            pairs = without_islands(members)
    return accepted


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions with ignore"])
def test_decisions_equal_those_made_on_arrays(labels: Labels) -> None:
    different = set()
    for seed in range(12):
        pairs = random_cases(labels, seed)
        cases = {str(n): ScoredCase(*pair, labels.foreground_keys, labels.ignore_label) for n, pair in enumerate(pairs)}
        determined = determine_steps(cases, labels)
        expected = decided_by_hand(pairs, labels)
        assert [set(step.labels) for step in determined.steps] == expected
        different.add(str(expected))
        for name, (prediction, reference) in zip(cases, pairs):
            left = apply_steps(prediction, determined.steps)
            assert determined.before[name] == score_case(
                prediction, reference, labels.foreground_keys, labels.ignore_label
            )
            assert determined.after[name] == score_case(left, reference, labels.foreground_keys, labels.ignore_label)
    assert len(different) >= 3  # the seeds take different turns


def test_nothing_is_decided_where_a_label_would_lose() -> None:
    # Label 2 is right and apart from the larger label 1, whose island is wrong: all foreground must not be cleaned,
    # label 1 must.
    reference = np.zeros((4, 6, 12), np.int16)
    reference[:, :, :4] = 1
    reference[1:3, 1:3, 6:8] = 2
    prediction = reference.copy()
    prediction[0, 0, 11] = 1
    labels = Labels({"background": 0, "one": 1, "two": 2})
    determined = determine_steps({"case": ScoredCase(prediction, reference, labels.foreground_keys)}, labels)
    assert [decision.accepted for decision in determined.decisions] == [False, True, False]
    assert [step.labels for step in determined.steps] == [(1,)]


def test_single_label_is_tried_once() -> None:
    labels = Labels({"background": 0, "organ": 1})
    reference = np.zeros((3, 3, 8), np.int16)
    reference[:, :, :3] = 1
    prediction = reference.copy()
    prediction[0, 0, 7] = 1
    determined = determine_steps({"case": ScoredCase(prediction, reference, labels.foreground_keys)}, labels)
    assert [decision.accepted for decision in determined.decisions] == [True]


def test_label_that_is_nowhere_keeps_all_foreground_from_being_cleaned() -> None:
    # Its Dice is not defined, so the mean is not either; nnU-Net decides the same.
    labels = Labels({"background": 0, "organ": 1, "absent": 2})
    reference = np.zeros((3, 3, 8), np.int16)
    reference[:, :, :3] = 1
    prediction = reference.copy()
    prediction[0, 0, 7] = 1
    determined = determine_steps({"case": ScoredCase(prediction, reference, labels.foreground_keys)}, labels)
    assert [decision.accepted for decision in determined.decisions] == [False, True, False]
    assert math.isnan(determined.decisions[0].dice_before)


def determined_example(labels: Labels = REGIONS) -> tuple[Path, list[tuple[int, ...]]]:
    folder = Path("crossval_results_folds_0_1")
    pairs = random_cases(labels, 3)
    cases = {str(n): ScoredCase(*pair, labels.foreground_keys, labels.ignore_label) for n, pair in enumerate(pairs)}
    determined = determine_steps(cases, labels)
    write_postprocessing(folder, determined)
    return folder, [step.labels for step in determined.steps]


def test_both_files_and_their_folders_give_the_steps_back() -> None:
    folder, steps = determined_example()
    assert steps
    for place in (folder / "postprocessing.json", folder / "postprocessing.pkl", folder, folder.parent):
        assert [step.labels for step in read_postprocessing(place, REGIONS)] == steps
    text = (folder / "postprocessing.json").read_text()
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not legal JSON"))
    assert content["steps"][0]["name"]
    assert {"input_folder", "postprocessed", "postprocessing_fns", "postprocessing_kwargs"} <= content.keys()


def test_pickle_names_the_function_of_nnunet_and_nothing_else() -> None:
    labels = Labels({"background": 0, "one": 1, "core": (2, 3)}, (1, 2))
    reference = np.zeros((4, 4, 9), np.int16)
    reference[:, :, :3] = 1
    reference[:, :, 3:5] = 2
    prediction = reference.copy()
    prediction[0, 0, 8] = 3
    prediction[3, 3, 7] = 1
    determined = determine_steps({"case": ScoredCase(prediction, reference, labels.foreground_keys)}, labels)
    named = []

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> str:
            named.append((module, name))
            return name

    functions, arguments = Reader(io.BytesIO(as_nnunet_pickle(determined.steps))).load()
    function = "remove_all_but_largest_component_from_segmentation"
    assert set(named) == {("nnunetv2.postprocessing.remove_connected_components", function)}
    assert functions == [function] * len(determined.steps)
    # as nnU-Net writes them: a list for all foreground, a tuple for a region, an integer for a label
    assert arguments == [{"labels_or_regions": [1, 2, 3]}]
    assert Reader(io.BytesIO(as_nnunet_pickle(()))).load() == ([], [])


@pytest.mark.parametrize("name", list(CROSS_VALIDATIONS))
def test_pickle_written_by_nnunet_gives_its_steps(name: str) -> None:
    theirs = json.loads(GOLDEN.read_text())[name]
    Path("postprocessing.pkl").write_bytes(base64.b64decode(theirs["pickle"]))
    labels = Labels.from_dataset_json(CROSS_VALIDATIONS[name].dataset_json)
    steps = read_postprocessing("postprocessing.pkl", labels)
    expected = [labels if isinstance(labels, list) else [labels] for labels in theirs["steps"]]
    assert [list(step.labels) for step in steps] == expected
    assert all(step.name for step in steps)


def test_pickle_that_names_anything_else_is_refused() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("boom",)

    Path("postprocessing.pkl").write_bytes(pickle.dumps(([Bomb()], [{}])))
    with pytest.raises(UnsafePickleError, match=r"builtins\.print"):
        read_postprocessing("postprocessing.pkl")
    Path("postprocessing.pkl").write_bytes(as_nnunet_pickle(())[:-5])
    with pytest.raises(FoldwiseError, match="truncated or damaged"):
        read_postprocessing("postprocessing.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"steps": [{"keep_largest_component_of": ["liver"]}]}, "expected labels such as"),
        ({"steps": [{"keep_largest_component_of": []}]}, "expected labels such as"),
        ({"something": 1}, 'holds no "steps"'),
        ({"postprocessing_fns": ["fill_holes"], "postprocessing_kwargs": [{}]}, "'fill_holes'"),
        ({"steps": [{"keep_largest_component_of": [1, 7]}]}, "label 7, which this dataset does not have"),
    ],
)
def test_steps_that_cannot_be_used_are_explained(content: object, message: str) -> None:
    Path("postprocessing.json").write_text(json.dumps(content))
    with pytest.raises(FoldwiseError, match=message):
        read_postprocessing("postprocessing.json", PLAIN)


def test_missing_steps_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FoldwiseError, match="fw_select"):
        read_postprocessing(tmp_path)
    with pytest.raises(FoldwiseError, match="does not exist"):
        read_postprocessing(tmp_path / "postprocessing.pkl")
