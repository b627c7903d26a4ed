"""Preprocessing by the real nnU-Net, for `tests.interop.compare_preprocessing`; runs in the yardstick's environment.

    python nnunet_preprocessing.py FOLDER

Reads ``FOLDER/NAME.npz`` (``image``, ``labels``, ``spacing``) with ``NAME.json`` (plans, dataset.json) and writes
``NAME_nnunet.npz`` with the arrays of `tests.interop.preprocessing_cases.Preprocessed`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        description = json.loads(path.read_text())
        inputs = np.load(path.with_suffix(".npz"))
        plans = PlansManager(description["plans"])
        configuration = plans.get_configuration(description["configuration"])
        spacing = inputs["spacing"].tolist()
        image, labels, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            inputs["image"], inputs["labels"], {"spacing": spacing}, plans, configuration, description["dataset_json"]
        )
        current = [spacing[axis] for axis in plans.transpose_forward]
        target = [*current[: 3 - len(configuration.spacing)], *configuration.spacing]
        shape = properties["shape_after_cropping_and_before_resampling"]
        back = configuration.resampling_fn_probabilities(image, shape, target, current)
        locations = np.concatenate([np.reshape(rows, (-1, 4)) for rows in properties["class_locations"].values()])
        result = {"image": image, "labels": labels.astype(np.int16), "locations": locations, "back": back}
        np.savez(path.with_name(f"{path.stem}_nnunet.npz"), **result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
