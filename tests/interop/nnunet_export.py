"""Export by the real nnU-Net, for `tests.interop.compare_export`; runs in the yardstick's environment.

    python nnunet_export.py FOLDER

Reads ``FOLDER/NAME.npy`` (logits) with ``NAME.json`` (plans, dataset.json, properties) and writes
``NAME_nnunet.npz`` with ``label_map`` and ``probabilities``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        description = json.loads(path.read_text())
        plans = PlansManager(description["plans"])
        # Asked for without probabilities, as for a prediction: the labels are then those of the logits.
        arguments = (
            plans,
            plans.get_configuration("some"),
            plans.get_label_manager(description["dataset_json"]),
            description["properties"],
        )
        convert = convert_predicted_logits_to_segmentation_with_correct_shape
        result = {"label_map": convert(torch.from_numpy(np.load(path.with_suffix(".npy"))), *arguments)}
        if description["want_probabilities"]:
            logits = torch.from_numpy(np.load(path.with_suffix(".npy")))
            result["probabilities"] = convert(logits, *arguments, return_probabilities=True)[1]
        np.savez(path.with_name(f"{path.stem}_nnunet.npz"), **result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
