"""Plans by the real nnU-Net, for `tests.interop.compare_planner`; runs in the yardstick's environment.

Reads one request a line from standard input: ``{"fingerprint", "dataset_json", "planner", "options"}``, and answers
each with one line: ``{"plans"}`` or ``{"error"}``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

DATASET = "Dataset999_Random"
SECONDS_FOR_A_PLAN = 120
"""Where no patch fits, nnU-Net's search does not end."""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(root / name)  # read when nnU-Net is imported
            (root / name / DATASET).mkdir(parents=True)
        planners = _planners(keep_networks="--plain" not in sys.argv)
        signal.signal(signal.SIGALRM, _give_up)
        answers = sys.stdout
        for line in sys.stdin:
            request = json.loads(line)
            signal.alarm(SECONDS_FOR_A_PLAN)
            try:
                with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
                    answer: dict[str, Any] = {"plans": _planned(request, planners[request["planner"]], root)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            finally:
                signal.alarm(0)
            print(json.dumps(answer), file=answers, flush=True)


def _planned(request: dict[str, Any], planner_class: Any, root: Path) -> dict[str, Any]:
    (root / "raw" / DATASET / "dataset.json").write_text(json.dumps(request["dataset_json"]))
    folder = root / "preprocessed" / DATASET
    (folder / "dataset_fingerprint.json").write_text(json.dumps(request["fingerprint"]))
    planner = planner_class(DATASET, **request["options"])
    file = folder / f"{planner.plans_identifier}.json"
    file.unlink(missing_ok=True)
    planner.plan_experiment()
    plans: dict[str, Any] = json.loads(file.read_text())
    return plans


def _planners(keep_networks: bool) -> dict[str, Any]:
    import torch
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as default
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners as resenc

    warnings.simplefilter("ignore")
    if keep_networks:
        # What is asked of a network is the size of its feature maps, which follows from its attributes: it needs no
        # weights, and one network serves for all patches with its topology. `--plain` leaves nnU-Net as it is.
        build = default.get_network_from_plans

        @functools.lru_cache(maxsize=256)
        def kept(name: str, arguments: str, imports: tuple[str, ...], num_inputs: int, num_outputs: int) -> Any:
            with torch.device("meta"):
                return build(name, json.loads(arguments), imports, num_inputs, num_outputs, allow_init=False)

        def get_network(name: str, arguments: Any, imports: Any, inputs: int, outputs: int, **_: Any) -> Any:
            return kept(name, json.dumps(arguments), tuple(imports), inputs, outputs)

        default.get_network_from_plans = get_network
    names = ("nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL")
    return {"ExperimentPlanner": default.ExperimentPlanner, **{name: getattr(resenc, name) for name in names}}


def _give_up(*_: object) -> None:
    raise TimeoutError(f"no plan after {SECONDS_FOR_A_PLAN} s")


if __name__ == "__main__":
    main()
