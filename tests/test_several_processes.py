"""``fw_train`` in several processes, from outside: launched, signalled, killed, stopped, on two machines, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.checkpoint import load_checkpoint
from framework.data.image_io import read_segmentation
from tests.builders import TINY, make_tiny_dataset, overrides_as_options, use_roots
from trainers import SegmentationTrainer

pytestmark = pytest.mark.slow

HOOKS = '''
import os, signal
from framework.distributed import restarts
from framework.hook import Hook

class KillRank1(Hook):
    """As if the system had killed it, in the first attempt."""
    def on_step_end(self, trainer, outputs):
        if trainer.ranks.rank == 1 and restarts() == 0 and trainer.global_step == 10:
            os.kill(os.getpid(), signal.SIGKILL)

class HangRank1(Hook):
    """As if its file system had died."""
    def on_step_end(self, trainer, outputs):
        if trainer.ranks.rank == 1 and restarts() == 0 and trainer.global_step == 10:
            os.kill(os.getpid(), signal.SIGSTOP)

class SignalRank1(Hook):
    """A scheduler's signal that reaches one process only."""
    def on_step_end(self, trainer, outputs):
        if trainer.ranks.rank == 1 and trainer.global_step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

class SignalLauncher(Hook):
    """The same to the process that the user has started."""
    def on_step_end(self, trainer, outputs):
        if trainer.ranks.is_main and trainer.global_step == 10:
            os.kill(os.getppid(), signal.SIGTERM)
'''
SETTINGS = TINY | {
    "training.num_epochs": 5,
    "training.iterations_per_epoch": 4,
    "training.weight_averaging": 0.9,
    "training.checkpoint_every_epochs": 1,
    # AdamW would blow up rounding errors: where a gradient is 0, such as that of a bias before a normalisation, its
    # steps follow their sign.
    "training.optimizer": {"name": "SGD", "momentum": 0.9},
    "training.initial_lr": 0.01,
    "batch_size": 5,
}
MODEL = "Dataset007_Tiny/SegmentationTrainer__laptop__3d_fullres/fold_0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw", num_cases=15)
        SegmentationTrainer.from_dataset(7, "3d_fullres", plans="laptop", device="cpu", report=lambda message: None)
    (folder / "hooks.py").write_text(HOOKS)
    return folder


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert run(data, folder)[0] == 0
    return folder / MODEL


def command(*options: str) -> list[str]:
    return ["7", "3d_fullres", "0", "-p", "laptop", "-device", "cpu", *overrides_as_options(SETTINGS), *options]


def environment(data: Path, results: Path) -> dict[str, str]:
    roots = {"FW_RAW": str(data / "raw"), "FW_PREPROCESSED": str(data / "preprocessed"), "FW_RESULTS": str(results)}
    return os.environ | roots | {"OMP_NUM_THREADS": "1"}


def run(data: Path, results: Path, *options: str, launcher: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code of ``fw_train``, and what it printed."""
    start = [sys.executable, "-m", *(launcher or ("framework.commands.train",))]
    process = subprocess.run(
        [*start, *command(*options)], env=environment(data, results), capture_output=True, text=True, timeout=300
    )
    return process.returncode, process.stdout + process.stderr


def final_state(run_folder: Path) -> dict[str, Any]:
    return load_checkpoint(run_folder / "checkpoint_final.pth")


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Weights up to the order of sums, history, and each validation case predicted once."""
    first, second = final_state(ours), final_state(theirs)
    for name, weights in second["network_weights"].items():
        torch.testing.assert_close(first["network_weights"][name], weights, atol=2e-5, rtol=0)
    histories = [
        [json.loads(line) for line in (each / "history.jsonl").read_text().splitlines()] for each in (ours, theirs)
    ]
    assert [row["epoch"] for row in histories[0]] == [row["epoch"] for row in histories[1]] == [0, 1, 2, 3, 4]
    for one, other in zip(*histories):
        for column in ("train_loss", "val_loss", "ema_fg_dice", "lr"):
            assert one[column] == pytest.approx(other[column], abs=1e-5), column
    cases = sorted(path.name for path in (theirs / "validation").glob("*.nii.gz"))
    assert sorted(path.name for path in (ours / "validation").glob("*.nii.gz")) == cases
    assert len(cases) == 3
    for case in cases:
        reader = "SimpleITKIO"
        labels = [read_segmentation(each / "validation" / case, reader)[0] for each in (ours, theirs)]
        assert np.mean(labels[0] != labels[1]) < 1e-3
    record = json.loads((ours / "validation/.predicted.json").read_text())
    assert record["is_complete"]
    assert len(record["files"]) == 3


@pytest.mark.parametrize("number", [2, 3])
def test_the_same_model_is_trained_and_validated_by_several(number: int, data: Path, alone: Path, tmp_path: Path):
    code, printed = run(data, tmp_path, "-num_gpus", str(number))
    assert code == 0, printed
    assert printed.count("epoch 5/5") == 1  # rank 0 speaks for all
    assert_same_training(tmp_path / MODEL, alone)


@pytest.mark.parametrize("hook", ["SignalRank1", "SignalLauncher"])
def test_a_signal_to_any_process_saves_once_and_exits_with_75(hook: str, data: Path, alone: Path, tmp_path: Path):
    code, printed = run(data, tmp_path, "-num_gpus", "2", "--hook", f"{data / 'hooks.py'}:{hook}")
    assert code == 75, printed
    assert printed.count("stopped: received SIGTERM. Continue with --c.") == 1
    assert (tmp_path / MODEL / "checkpoint_latest.pth").is_file()
    code, printed = run(data, tmp_path, "--c")  # alone
    assert code == 0, printed
    assert_same_training(tmp_path / MODEL, alone)


@pytest.mark.parametrize("hook", ["KillRank1", "HangRank1"])
def test_a_rank_that_dies_or_hangs_is_started_again_and_nothing_is_lost(
    hook: str, data: Path, alone: Path, tmp_path: Path
):
    options = ["-num_gpus", "2", "--hook", f"{data / 'hooks.py'}:{hook}", "--set=training.rank_timeout_minutes=0.1"]
    code, printed = run(data, tmp_path, *options)
    assert code == 0, printed
    if hook == "HangRank1":
        assert "rank 1 has not answered for 6 s" in printed or "rank 1 has not moved on for 6 s" in printed, printed
    assert "resuming from checkpoint_" in printed
    assert not list((tmp_path / MODEL).parent.glob("fold_0_before_*"))
    assert_same_training(tmp_path / MODEL, alone)


def machine(
    data: Path, results: Path, nodes: str, *options: str, holds_rendezvous: bool, **variables: str
) -> subprocess.Popen[str]:
    """A launcher with one process, as on one of two machines; those of one test find each other."""
    port = 29500 + zlib.crc32(str(results).encode()) % 2000
    rendezvous = f"is_host={int(holds_rendezvous)},keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=5"
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1",
        "--max-restarts", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "night",
        "--rdzv-conf", rendezvous, "--local-addr", "127.0.0.1",
        "-m", "framework.commands.train", *command(*options),
    ]  # fmt: skip
    return subprocess.Popen(
        launcher,
        env=environment(data, results) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_machines_train_together_under_torchrun_and_one_goes_on_alone(data: Path, alone: Path, tmp_path: Path):
    code_file = tmp_path / "code"
    signal_one = ("--hook", f"{data / 'hooks.py'}:SignalRank1")
    machines = [
        machine(data, tmp_path, "2", *signal_one, holds_rendezvous=first, FW_EXIT_CODE_FILE=str(code_file))
        for first in (True, False)
    ]
    printed = [each.communicate(timeout=300)[0] for each in machines]
    assert [each.returncode for each in machines] == [0, 0], printed
    assert code_file.read_text().strip() == "75"
    torchrun = ("torch.distributed.run", "--standalone", "-m", "framework.commands.train")
    code, text = run(data, tmp_path, "--c", launcher=torchrun)
    assert code == 0, text
    assert_same_training(tmp_path / MODEL, alone)


def processes_of(launcher: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def test_a_machine_that_is_lost_leaves_the_other_to_finish(data: Path, alone: Path, tmp_path: Path):
    first = machine(data, tmp_path, "1:2", holds_rendezvous=True)
    second = machine(data, tmp_path, "1:2", holds_rendezvous=False)
    assert first.stdout is not None
    printed = ""
    while "epoch 2/5" not in printed and first.poll() is None:
        printed += first.stdout.readline()
    for process in (*processes_of(second.pid), second.pid):
        os.kill(process, signal.SIGKILL)
    printed += first.communicate(timeout=300)[0]
    assert first.returncode == 0, printed
    assert "resuming from checkpoint_" in printed
    assert_same_training(tmp_path / MODEL, alone)


def test_a_stop_file_reaches_all_within_the_final_validation(data: Path, tmp_path: Path):
    options = ["-num_gpus", "2", "--val"]
    assert run(data, tmp_path, "-num_gpus", "2")[0] == 0
    run_folder = tmp_path / MODEL
    (run_folder / "STOP").touch()
    code, printed = run(data, tmp_path, *options)
    # Three small cases may be done before the file is seen; then it is a normal end.
    assert code in (0, 75), printed
    (run_folder / "STOP").unlink(missing_ok=True)
    code, printed = run(data, tmp_path, *options)
    assert code == 0, printed
    assert len(json.loads((run_folder / "validation/summary.json").read_text())["metric_per_case"]) == 3


def test_a_users_mistake_is_told_once(data: Path, tmp_path: Path):
    code, printed = run(data, tmp_path, "-num_gpus", "6")
    assert code == 2
    assert printed.count("a batch of 5 cannot be split over 6 processes") == 1
    assert "Traceback" not in printed


def test_a_killed_launcher_leaves_no_process_behind(data: Path, tmp_path: Path):
    launcher = subprocess.Popen(
        [sys.executable, "-m", "framework.commands.train", *command("-num_gpus", "2", "--set=training.num_epochs=500")],
        env=environment(data, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if line.startswith("epoch"):
            break
    launcher.kill()
    launcher.wait()
    ends = time.monotonic() + 30
    lock = tmp_path / MODEL / ".lock"
    holder = int(lock.read_text().split()[-1])
    while time.monotonic() < ends and _runs(holder):
        time.sleep(0.2)
    assert not _runs(holder)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
