"""What ``fw_select`` says in the end: a table of the scores, the commands to run, and both as files."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from framework.evaluation.metrics_table import label_text
from framework.files import write_json, write_text
from framework.roots import results_root
from framework.selection.models import Model
from framework.selection.postprocessing import Determined
from framework.selection.postprocessing_files import PICKLE_NAME
from framework.selection.selection import Candidate, Selection

INFORMATION_NAME, INSTRUCTIONS_NAME = "inference_information.json", "inference_instructions.txt"
_INPUT, _OUTPUT, _POSTPROCESSED = "INPUT_FOLDER", "OUTPUT_FOLDER", "OUTPUT_FOLDER_PP"


def write_instructions(selection: Selection) -> Path:
    """Write ``inference_information.json`` and ``inference_instructions.txt``; returns their folder."""
    folder = results_root() / selection.dataset
    write_json(folder / INFORMATION_NAME, information(selection), sort_keys=True)
    write_text(folder / INSTRUCTIONS_NAME, instructions(selection) + "\n")
    return folder


def information(selection: Selection) -> dict[str, Any]:
    """nnU-Net's keys; a score that is not defined is null."""
    best = selection.best
    before, after = (_foreground_mean(cases) for cases in (selection.determined.before, selection.determined.after))
    return {
        "folds": list(selection.folds),
        "dataset_name_or_id": selection.dataset,
        "considered_models": [
            {"plans": model.plans, "configuration": model.configuration, "trainer": model.trainer}
            for model in selection.models
        ],
        "ensembling_allowed": selection.ensembling,
        "all_results": {each.name: _legal(each.foreground_mean) for each in selection.candidates},
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": _legal(before),
            "result_on_crossval_post_pp": _legal(after),
            "postprocessing_file": str((best.folder / PICKLE_NAME).absolute()),
            "some_plans_file": str((best.folder / "plans.json").absolute()),
            "selected_model_or_models": [
                {"configuration": model.configuration, "trainer": model.trainer, "plans_identifier": model.plans}
                for model in best.models
            ],
        },
    }


def commands(selection: Selection) -> list[str]:
    """What to run, in order, for new scans: every stage of every member, the ensemble, post-processing."""
    members = selection.best.models
    is_ensemble = len(members) > 1
    outputs = {
        model: f"{_OUTPUT}_MODEL_{number}" if is_ensemble else _OUTPUT for number, model in enumerate(members, start=1)
    }
    stages: dict[Model, str] = {}  # in the order in which they must run
    for model in members:
        _add_stages(model, outputs, stages)
    lines = []
    for model, output in stages.items():
        previous = model.previous_stage()
        options = ["-prev_stage_predictions", stages[previous]] if previous is not None else []
        options += ["--save_probabilities"] if is_ensemble and model in members else []
        folds = [str(fold) for fold in selection.folds]
        which = ["-d", model.dataset, "-c", model.configuration, "-tr", model.trainer, "-p", model.plans]
        lines.append(shlex.join(["fw_predict", "-i", _INPUT, "-o", output, *which, "-f", *folds, *options]))
    if is_ensemble:
        lines.append(shlex.join(["fw_ensemble", "-i", *outputs.values(), "-o", _OUTPUT]))
    if selection.determined.steps:
        file = str((selection.best.folder / PICKLE_NAME).absolute())
        lines.append(shlex.join(["fw_postprocess", "-i", _OUTPUT, "-o", _POSTPROCESSED, "-pp_pkl_file", file]))
    return lines


def instructions(selection: Selection) -> str:
    """The whole text."""
    parts = [
        score_table(selection),
        *selection.notes,
        f"Best: {_short_name(selection.best, selection)}, in {selection.best.folder}",
        *_decisions(selection),
    ]
    where = _POSTPROCESSED if selection.determined.steps else _OUTPUT
    parts.append(
        "\n".join(
            [
                f"To predict new scans, put your folders in the place of {_INPUT} and {_OUTPUT}..., and run:",
                "",
                *commands(selection),
                "",
                f"The result is in {where}.",
            ]
        )
    )
    return "\n\n".join(parts)


def score_table(selection: Selection) -> str:
    """Dice of every candidate: mean over the labels, and each label."""
    keys = list(selection.labels)
    heading = ["configuration", "mean Dice", *(f"{selection.labels[key]} ({label_text(key)})" for key in keys)]
    rows = []
    for candidate in sorted(selection.candidates, key=_worst_last):
        mean = candidate.summary["mean"]
        marked = (
            f"* {_short_name(candidate, selection)}"
            if candidate is selection.best
            else (f"  {_short_name(candidate, selection)}")
        )
        rows.append([marked, _number(candidate.foreground_mean), *(_number(mean[key]["Dice"]) for key in keys)])
    heading[0] = f"  {heading[0]}"
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))])
        for row in [heading, *rows]
    )


def describe_decisions(determined: Determined) -> list[str]:
    """One line for each step that was tried."""
    lines = []
    for decision in determined.decisions:
        names = decision.step.name or label_text(decision.step.labels)
        verdict = "yes" if decision.accepted else "no"
        lines.append(
            f"  {verdict:4}keep the largest component of {names}: Dice {_number(decision.dice_before)} -> "
            f"{_number(decision.dice_after)}"
        )
    return lines


def _decisions(selection: Selection) -> list[str]:
    before, after = (_foreground_mean(cases) for cases in (selection.determined.before, selection.determined.after))
    text = f"Post-processing: mean Dice {_number(before)} -> {_number(after)}"
    return ["\n".join([text, *describe_decisions(selection.determined)])]


def _add_stages(model: Model, outputs: dict[Model, str], stages: dict[Model, str]) -> None:
    """`model` after all that it needs as input."""
    if model in stages:
        return
    previous = model.previous_stage()
    if previous is not None:
        _add_stages(previous, outputs, stages)
    stages[model] = outputs.get(model, f"{_OUTPUT}_{model.configuration}")


def _short_name(candidate: Candidate, selection: Selection) -> str:
    """The configuration, with trainer and plans only where they differ between models."""
    models = selection.models
    same_trainer, same_plans = len({m.trainer for m in models}) == 1, len({m.plans for m in models}) == 1
    names = [
        "__".join([*([] if same_trainer else [m.trainer]), *([] if same_plans else [m.plans]), m.configuration])
        for m in candidate.models
    ]
    return " + ".join(names)


def _foreground_mean(cases: Any) -> float:
    from framework.evaluation.summary import summarise

    return float(summarise([{"metrics": metrics} for metrics in cases.values()])["foreground_mean"]["Dice"])


def _worst_last(candidate: Candidate) -> float:
    score = candidate.foreground_mean
    return math.inf if math.isnan(score) else -score


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _legal(value: float) -> float | None:
    return None if math.isnan(value) else value
