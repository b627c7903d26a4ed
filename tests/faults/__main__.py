"""``python -m tests.faults``: the whole form. Prints a table; exit code 0 if nothing was lost."""

from __future__ import annotations

import os

# Before torch is imported: one thread, so that processes can be forked from this one.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import collections
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.comparison import differences, left_by
from tests.faults.damage import damage
from tests.faults.disk import refuse
from tests.faults.kills import kill, num_kills_of
from tests.faults.outcome import Outcome
from tests.faults.small_training import SmallTraining

Job = Callable[[], Outcome]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="everything that is drawn follows from it")
    parser.add_argument("--kills", type=int, default=140, metavar="N", help="some come too late to hit")
    parser.add_argument("--disk", type=int, default=22, metavar="N", help="disk faults; 22 are all rules once")
    parser.add_argument("--damage", type=int, default=21, metavar="N", help="damaged files; 21 are all targets once")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="trainings at the same time")
    parser.add_argument("--only", metavar="KIND_NUMBER", help="one of them again, such as kill_17; keeps its files")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write the outcomes there")
    parser.add_argument("--data", type=Path, help="folder of Dataset004_Hippocampus")
    options = parser.parse_args()
    shared = Path(os.environ.get("FOLDWISE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    raw = (options.data or shared) / "Dataset004_Hippocampus"
    if not raw.is_dir():
        parser.error(f"real data not found at {raw}; set FOLDWISE_SHARED_DATA to its folder (docs/testing.md)")
    folder = Path(tempfile.mkdtemp(prefix="foldwise_faults_"))
    training = SmallTraining(raw, folder)
    training.prepare()
    _import_everything()
    clean, seconds = _clean_run(training)
    jobs = _jobs(training, options, clean, seconds)
    started = time.monotonic()
    outcomes = _in_lanes(jobs, options.at_once, folder, keep=options.only is not None)
    _print_table(outcomes, time.monotonic() - started)
    if options.report:
        options.report.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    lost = [outcome for outcome in outcomes if outcome.problems]
    if not lost and options.only is None:
        shutil.rmtree(folder)
    else:
        print(f"files: {folder}")
    return 1 if lost else 0


def _jobs(
    training: SmallTraining, options: argparse.Namespace, clean: dict[str, Any], seconds: float
) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    for number in range(options.disk):
        jobs[f"disk_{number}"] = lambda number=number: refuse(training, options.seed, number, clean)
    for number in range(options.damage):
        jobs[f"damage_{number}"] = lambda number=number: damage(training, options.seed, number, clean)
    kills = number = 0
    while kills < options.kills:
        jobs[f"kill_{number}"] = lambda number=number: kill(training, options.seed, number, clean, seconds)
        kills += num_kills_of(options.seed, number)
        number += 1
    return {name: job for name, job in jobs.items() if options.only in (None, name)}


def _import_everything() -> None:
    """What a training imports on its way, so that forked ones start at once."""
    import blosc2  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import SimpleITK  # noqa: F401
    import torch._dynamo  # noqa: F401  the optimizers import it

    import framework.commands.train  # noqa: F401
    import trainers.segmentation  # noqa: F401


def _clean_run(training: SmallTraining) -> tuple[dict[str, Any], float]:
    """What a run without faults leaves, with workers and without; and the seconds it takes."""
    found, seconds = [], []
    for workers in (0, 2, 0):
        run = training.new_run(f"clean_{len(found)}")
        started = time.monotonic()
        ended = run.start(workers=workers)
        seconds.append(time.monotonic() - started)
        assert ended.code == 0, ended.output
        found.append(left_by(run.fold, run.dataset))
        assert not differences(found[0], found[-1]), differences(found[0], found[-1])
    print(f"the clean run takes {seconds[-1]:.1f} s", flush=True)
    return found[0], seconds[-1]


def _in_lanes(jobs: dict[str, Job], num_lanes: int, folder: Path, keep: bool) -> list[Outcome]:
    """All jobs, in several processes without threads, from which trainings can be forked."""
    results = folder / "outcomes"
    results.mkdir()
    lanes = []
    for lane in range(num_lanes):
        process = os.fork()
        if process == 0:
            for name, job in list(jobs.items())[lane::num_lanes]:
                _one_job(name, job, results, folder, keep)
            os._exit(0)
        lanes.append(process)
    for process in lanes:
        os.waitpid(process, 0)
    outcomes = [Outcome(**json.loads(path.read_text())) for path in sorted(results.iterdir())]
    missing = len(jobs) - len(outcomes)
    assert missing == 0, f"{missing} outcomes are missing"
    return outcomes


def _one_job(name: str, job: Job, results: Path, folder: Path, keep: bool) -> None:
    started = time.monotonic()
    try:
        outcome = job()
    except Exception:  # of this suite; SystemExit is a forked training on its way out
        outcome = Outcome(int(name.rpartition("_")[2]), name.partition("_")[0], problems=[traceback.format_exc()])
    (results / f"{name}.json").write_text(json.dumps(asdict(outcome)))
    verdict = "ok" if not outcome.problems else f"LOST: {outcome.problems}"
    print(f"{name} ({time.monotonic() - started:.0f} s): {'; '.join(outcome.faults)}: {verdict}", flush=True)
    if not outcome.problems and not keep:
        shutil.rmtree(folder / "runs" / name, ignore_errors=True)


def _print_table(outcomes: list[Outcome], seconds: float) -> None:
    """One row for each kind and phase: tried, survived, lost."""
    tried: collections.Counter[tuple[str, str]] = collections.Counter()
    lost: collections.Counter[tuple[str, str]] = collections.Counter()
    for outcome in outcomes:
        for kind, phase in outcome.places or ([(outcome.kind, "?")] if outcome.problems else []):
            tried[kind, phase] += 1
            lost[kind, phase] += bool(outcome.problems)
    print("\n| fault | where | tried | lost |\n|---|---|---|---|")
    for kind, phase in sorted(tried):
        print(f"| {kind} | {phase} | {tried[kind, phase]} | {lost[kind, phase]} |")
    for group in ("kill", "disk", "damage"):
        members = [outcome for outcome in outcomes if outcome.kind == group]
        faults, drawn = sum(len(each.places) for each in members), sum(len(each.faults) for each in members)
        failed = sum(bool(each.problems) for each in members)
        print(f"{group}: {faults} faults ({drawn} drawn) in {len(members)} runs, {failed} runs lost")
    print(f"{seconds / 60:.0f} min")


if __name__ == "__main__":
    sys.exit(main())
