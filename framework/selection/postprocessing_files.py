"""``postprocessing.json`` and ``postprocessing.pkl``: what was decided, for people, for us, and for nnU-Net.

nnU-Net's pickle refers to a function of nnU-Net's. It is written and read here without importing anything: a pickle
names what it needs as text, and only that one name is accepted.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.data import restricted_pickle
from framework.data.labels import LabelKey, Labels
from framework.errors import FoldwiseError
from framework.evaluation.summary import summarise
from framework.files import read_json, write_bytes, write_json
from framework.selection.postprocessing import ALL_FOREGROUND, Determined, KeepLargest

JSON_NAME, PICKLE_NAME = "postprocessing.json", "postprocessing.pkl"

_FUNCTION = "remove_all_but_largest_component_from_segmentation"
_MODULE = "nnunetv2.postprocessing.remove_connected_components"
_ARGUMENT = "labels_or_regions"


def write_postprocessing(folder: Path, determined: Determined) -> None:
    """Write both files into `folder`."""
    write_bytes(folder / PICKLE_NAME, as_nnunet_pickle(determined.steps))
    write_json(folder / JSON_NAME, _as_json(determined))


def read_postprocessing(path: Path | str, labels: Labels | None = None) -> tuple[KeepLargest, ...]:
    """The steps in a file of ours or of nnU-Net's.

    Args:
        path: postprocessing.json or postprocessing.pkl, or a folder that holds one: a folder with the results of a
            cross-validation, or a model folder with one such folder.
        labels: of the dataset, for the names of the steps.

    Raises:
        FoldwiseError: there is no such file, or it holds something else; UnsafePickleError if a pickle names anything
            but nnU-Net's function.
    """
    path = _file(Path(path))
    if path.suffix == ".json":
        content = read_json(path)
        steps = _steps_in_json(content, path)
    else:
        steps = _steps_in_pickle(path)
    if labels is None:
        return steps
    names = {_members(key): name for key, name in zip(labels.foreground_keys, labels.foreground_names)}
    named = []
    for step in steps:
        unknown = [label for label in step.labels if label not in labels.foreground_labels]
        if unknown:
            known = ", ".join(str(label) for label in labels.foreground_labels)
            raise FoldwiseError(
                f"{path} keeps the largest component of label {', '.join(map(str, unknown))}, which this dataset does "
                f"not have; its labels are {known}. Give the file that was made for this dataset."
            )
        whole = set(step.labels) == set(labels.foreground_labels)
        name = step.name or names.get(step.labels) or (ALL_FOREGROUND if whole else "")
        named.append(KeepLargest(step.labels, name, step.one_region))
    return tuple(named)


def as_nnunet_pickle(steps: Sequence[KeepLargest]) -> bytes:
    """What ``nnUNetv2_apply_postprocessing`` reads: a list of its functions, and a list of their arguments."""
    arguments = [{_ARGUMENT: _for_nnunet(step)} for step in steps]
    function = pickle.GLOBAL + f"{_MODULE}\n{_FUNCTION}\n".encode()
    functions = pickle.EMPTY_LIST + pickle.MARK + function * len(steps) + pickle.APPENDS
    # Protocol 2 has no frames, so that what it writes, less its first two bytes and its end, fits into another pickle.
    start, inner = pickle.PROTO + b"\x02", pickle.dumps(arguments, protocol=2)[2:-1]
    return start + functions + inner + pickle.TUPLE2 + pickle.STOP


def _as_json(determined: Determined) -> dict[str, Any]:
    return {
        "steps": [{"keep_largest_component_of": list(step.labels), "name": step.name} for step in determined.steps],
        "decisions": [
            {
                "keep_largest_component_of": list(decision.step.labels),
                "name": decision.step.name,
                "accepted": decision.accepted,
                "mean_Dice_before": _legal(decision.dice_before),
                "mean_Dice_after": _legal(decision.dice_after),
            }
            for decision in determined.decisions
        ],
        # From here on as nnU-Net writes it.
        "input_folder": _means(determined.before),
        "postprocessed": _means(determined.after),
        "postprocessing_fns": [_FUNCTION] * len(determined.steps),
        "postprocessing_kwargs": [{_ARGUMENT: _for_nnunet(step)} for step in determined.steps],
    }


def _means(cases: Mapping[str, Mapping[LabelKey, Mapping[str, float]]]) -> dict[str, Any]:
    summary = summarise([{"metrics": metrics} for metrics in cases.values()])
    return {
        "foreground_mean": _all_legal(summary["foreground_mean"]),
        "mean": {str(key): _all_legal(metrics) for key, metrics in summary["mean"].items()},
    }


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise FoldwiseError(
            f"{path} does not exist. Give {JSON_NAME} or {PICKLE_NAME} of a cross-validation, or its folder; fw_select "
            "writes them, and fw_postprocess --determine."
        )
    folders = [path, *sorted(path.glob("crossval_results_folds_*"))]
    found = [folder / name for folder in folders for name in (JSON_NAME, PICKLE_NAME) if (folder / name).is_file()]
    if len({file.parent for file in found}) > 1:
        raise FoldwiseError(f"{path} holds several: {', '.join(map(str, found))}. Give one of them.")
    if not found:
        raise FoldwiseError(
            f"{path} holds no {JSON_NAME} and no {PICKLE_NAME}. Make them with fw_select, or with fw_postprocess "
            "--determine -i CROSSVAL_FOLDER -ref LABELS."
        )
    return found[0]


def _steps_in_json(content: Any, path: Path) -> tuple[KeepLargest, ...]:
    if isinstance(content, dict) and isinstance(content.get("steps"), list):
        steps = content["steps"]
        arguments = [step.get("keep_largest_component_of") if isinstance(step, dict) else None for step in steps]
        names = [str(step.get("name", "")) if isinstance(step, dict) else "" for step in steps]
        return tuple(_step(value, path, name) for value, name in zip(arguments, names))
    if isinstance(content, dict) and isinstance(content.get("postprocessing_fns"), list):
        return _steps_of_nnunet(content["postprocessing_fns"], content.get("postprocessing_kwargs"), path)
    raise FoldwiseError(
        f'{path} holds no "steps". Expected for example {{"steps": [{{"keep_largest_component_of": [1, 2]}}]}}.'
    )


def _steps_in_pickle(path: Path) -> tuple[KeepLargest, ...]:
    # The one function that it may name is taken as text.
    content = restricted_pickle.load_pickle(path, also={(_MODULE, _FUNCTION): _FUNCTION})
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise FoldwiseError(f"{path} is no {PICKLE_NAME}: expected a list of functions and a list of their arguments.")
    functions, arguments = content
    return _steps_of_nnunet(functions, arguments, path)


def _steps_of_nnunet(functions: Any, arguments: Any, path: Path) -> tuple[KeepLargest, ...]:
    if not isinstance(functions, list) or not isinstance(arguments, list) or len(functions) != len(arguments):
        raise FoldwiseError(f"{path}: the functions and their arguments do not belong together: {functions}.")
    steps = []
    for function, values in zip(functions, arguments):
        if function != _FUNCTION:
            raise FoldwiseError(f"{path} asks for {function!r}; only {_FUNCTION} is known.")
        others = dict(values) if isinstance(values, dict) else {"arguments": values}
        wanted = others.pop(_ARGUMENT, None)
        if others.pop("background_label", 0) != 0 or others:
            raise FoldwiseError(f"{path}: {_FUNCTION} with {values!r} is not known; expected only '{_ARGUMENT}'.")
        steps.append(_step(wanted, path))
    return tuple(steps)


def _step(value: Any, path: Path, name: str = "") -> KeepLargest:
    """From a label, a region, or a list of both: what counts is their union."""
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    labels: list[int] = []
    for part in parts:
        labels += list(part) if isinstance(part, (list, tuple)) else [part]
    if not labels or not all(_is_label(label) for label in labels):
        raise FoldwiseError(f"{path}: the largest component of {value!r} is asked for, expected labels such as [1, 2].")
    return KeepLargest(tuple(int(label) for label in labels), name, isinstance(value, tuple))


def _is_label(value: Any) -> bool:
    try:
        return not isinstance(value, (bool, str)) and int(value) == value and value > 0
    except (TypeError, ValueError):
        return False


def _for_nnunet(step: KeepLargest) -> int | tuple[int, ...] | list[int]:
    """nnU-Net writes one label as an integer, a region as a tuple, and several labels as a list."""
    if step.one_region:
        return step.labels
    return step.labels[0] if len(step.labels) == 1 and step.name != ALL_FOREGROUND else list(step.labels)


def _members(key: LabelKey) -> tuple[int, ...]:
    return key if isinstance(key, tuple) else (key,)


def _legal(value: float) -> float | None:
    return None if math.isnan(value) else value


def _all_legal(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _legal(value) for name, value in metrics.items()}
