"""What the real nnU-Net feeds a cascade's second stage, for `tests.interop.compare_cascade_input`.

    python nnunet_cascade_input.py FOLDER

Runs in the yardstick's environment. Reads ``FOLDER/NAME/`` (``plans.json``, ``dataset.json``, ``scan_0000.nii.gz``,
..., ``scan.nii.gz`` from the previous stage) and writes ``FOLDER/NAME/nnunet.npy``, (C + L, X, Y, Z).
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from pathlib import Path

import numpy as np
from nnunetv2.inference.data_iterators import preprocess_fromfiles_save_to_queue
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*/plans.json")):
        plans = PlansManager(json.loads(path.read_text()))
        dataset_json = json.loads(path.with_name("dataset.json").read_text())
        results: queue.Queue = queue.Queue()
        preprocess_fromfiles_save_to_queue(
            [[str(image) for image in sorted(path.parent.glob("scan_*.nii.gz"))]],
            [str(path.with_name("scan.nii.gz"))],
            None,
            plans,
            dataset_json,
            plans.get_configuration("some"),
            results,
            threading.Event(),
            threading.Event(),
        )
        np.save(path.with_name("nnunet.npy"), results.get()["data"].numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
