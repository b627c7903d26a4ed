"""Our plans against those of the real nnU-Net, field by field, for many datasets drawn at random.

    python -m tests.interop.compare_planner --count 500

With ``--golden`` it only writes what the unit tests compare with: nnU-Net's plans for the first datasets.
Needs the yardstick (``python -m benchmarks setup``). Ends with 1 if any plan differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.yardstick import program
from framework.errors import FoldwiseError
from tests.interop.random_fingerprints import KINDS, PRESETS, RandomDataset, Request, draw_dataset, our_plans, summary

GOLDEN = Path(__file__).parents[1] / "framework" / "golden" / "planner.json"


class Judge:
    """A process in which nnU-Net plans."""

    def __init__(self, plain: bool = False) -> None:
        script = Path(__file__).with_name("nnunet_planner.py")
        self._process = subprocess.Popen(
            [program("python"), script, *(["--plain"] if plain else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def plans(self, dataset: RandomDataset, request: Request) -> dict[str, Any]:
        """``{"plans"}`` or ``{"error"}``."""
        options: dict[str, Any] = {}
        if request.memory_gb is not None:
            options["gpu_memory_target_in_gb"] = request.memory_gb
        if request.target_spacing is not None:
            options["overwrite_target_spacing"] = request.target_spacing
        asked = {
            "fingerprint": dataset.fingerprint,
            "dataset_json": dataset.dataset_json,
            "planner": PRESETS[request.preset],
            "options": options,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Paths and both values where two JSON values differ, types included."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if list(ours) != list(theirs):
            yield f"{path}: keys {list(ours)} / {list(theirs)}"
        for key in ours.keys() & theirs.keys():
            yield from differences(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs)):
            yield from differences(*pair, f"{path}[{index}]")
    elif ours != theirs or type(ours) is not type(theirs):
        yield f"{path}: {ours} / {theirs}"


def compare(seed: int, judge: Judge) -> list[tuple[str, str]]:
    """(outcome, details) for each plan that is asked for of one random dataset."""
    dataset, outcomes = draw_dataset(seed), []
    for request in dataset.requests:
        title = f"seed {seed} ({dataset.kind}), {request}"
        answer = judge.plans(dataset, request)
        try:
            ours = our_plans(dataset, request)
        except FoldwiseError as error:
            theirs = answer.get("error", "a plan")
            outcome = "both refuse" if "error" in answer else "DIFFERENT"
            outcomes.append((outcome, f"{title}\n  ours: {error}\n  nnU-Net: {theirs}"))
            continue
        except Exception as error:
            outcomes.append(("DIFFERENT", f"{title}\n  ours: {error!r}\n  nnU-Net: {answer.get('error', 'a plan')}"))
            continue
        if "error" in answer:
            patches = {name: c.get("patch_size") for name, c in ours["configurations"].items()}
            outcomes.append(("only nnU-Net fails", f"{title}\n  ours: {patches}\n  nnU-Net: {answer['error']}"))
            continue
        found = list(differences(ours, answer["plans"]))
        outcomes.append(("DIFFERENT" if found else "equal", "\n  ".join([title, *found[:8]])))
    return outcomes


def write_golden() -> int:
    """What nnU-Net plans for a few datasets."""
    judge, lines = Judge(), []
    for seed in range(3 * len(KINDS)):
        dataset = draw_dataset(seed)
        answers = [judge.plans(dataset, request) for request in dataset.requests]
        entry = asdict(dataset) | {"plans": [summary(each["plans"]) if "plans" in each else None for each in answers]}
        lines.append(json.dumps(entry, separators=(",", ":")))
    judge.close()
    GOLDEN.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.compare_planner", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="datasets, of each six plans (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="the first dataset (default: 0)")
    parser.add_argument("--processes", type=int, default=2, help="processes in which nnU-Net plans (default: 2)")
    parser.add_argument("--plain", action="store_true", help="change nothing in nnU-Net to make it faster")
    parser.add_argument("--golden", action="store_true", help="only write the golden file of the unit tests")
    options = parser.parse_args()
    if options.golden:
        return write_golden()

    judges: SimpleQueue[Judge] = SimpleQueue()
    for _ in range(options.processes):
        judges.put(Judge(options.plain))

    def work(seed: int) -> list[tuple[str, str]]:
        judge = judges.get()
        try:
            return compare(seed, judge)
        finally:
            judges.put(judge)

    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(options.processes) as pool:
        for done, outcomes in enumerate(pool.map(work, range(options.seed, options.seed + options.count)), 1):
            for outcome, details in outcomes:
                counts[outcome] += 1
                if outcome != "equal":
                    print(f"{outcome}: {details}", flush=True)
            if done % 50 == 0:
                print(f"{done} datasets: {dict(counts)}", flush=True)
    for _ in range(options.processes):
        judges.get().close()
    print(f"{options.count} datasets, {counts.total()} plans: {dict(counts)}")
    return 1 if counts["DIFFERENT"] else 0


if __name__ == "__main__":
    sys.exit(main())
