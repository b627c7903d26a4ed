"""``fw_predict``: its options, exit codes and messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from framework.commands.predict import build_parser
from framework.commands.predict import main as fw_predict
from tests.builders import use_roots
from tests.framework.tiny_model import labels_by_hand, make_model, make_scan, read_labels

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_roots(tmp_path, monkeypatch)
    return make_model(tmp_path / "results")


def _predict(*arguments: Path | str) -> int:
    return fw_predict([*map(str, arguments), "-device", "cpu"])


def test_nnunets_command_line_is_understood():
    line = (
        "-i in -o out -d 4 -c 3d_fullres -p nnUNetPlans -tr nnUNetTrainer -f 0 1 all -step_size 0.25 --disable_tta "
        "--verbose --save_probabilities --continue_prediction -chk checkpoint_best.pth -npp 3 -nps 2 "
        "-prev_stage_predictions before -num_parts 4 -part_id 1 -device cpu --disable_progress_bar "
        "--not_on_device"
    )
    options = build_parser().parse_args(line.split())
    assert (options.source, options.target, options.dataset, options.configuration) == (
        ["in"],
        "out",
        "4",
        "3d_fullres",
    )
    assert (options.plans, options.trainer, options.folds) == ("nnUNetPlans", "nnUNetTrainer", ["0", "1", "all"])
    assert (options.step, options.disable_tta, options.verbose) == (0.25, True, True)
    assert (options.save_probabilities, options.resume, options.checkpoint) == (True, True, "checkpoint_best.pth")
    assert (options.num_readers, options.num_writers, options.previous_stage) == (3, 2, "before")
    assert (options.num_parts, options.part, options.disable_progress_bar) == (4, 1, True)
    # nnUNetv2_predict_from_modelfolder
    assert build_parser().parse_args(["-i", "in", "-o", "out", "-m", "folder", "--c"]).resume


def test_a_dataset_and_a_configuration_find_the_model_by_its_results_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    values = make_scan(tmp_path / "in/a_0000.nii.gz")
    for dataset in ("7", "Levels", "Dataset007_Levels"):
        out = tmp_path / f"out {dataset}"
        assert _predict("-i", tmp_path / "in", "-o", out, "-d", dataset, "-c", "3d_fullres", "-f", "0") == 0
        np.testing.assert_array_equal(read_labels(out / "a.nii.gz"), labels_by_hand(values))
    assert "1 of 1 case(s) are in" in capsys.readouterr().out
    arguments = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-d", "7", "-c"]
    assert _predict(*arguments, "2d") == 2
    error = capsys.readouterr().err
    assert "holds no model of configuration '2d'" in error
    assert "SegmentationTrainer__nnUNetPlans__3d_fullres" in error
    make_model(tmp_path / "results", trainer="A", configuration="odd", plans_name="p")
    assert _predict(*arguments, "odd") == 0  # the only one there is
    make_model(tmp_path / "results", trainer="B", configuration="odd", plans_name="p")
    assert _predict(*arguments, "odd") == 2
    assert "Choose with -tr and -p" in capsys.readouterr().err
    assert _predict(*arguments, "odd", "-tr", "my_file.py:B") == 0


def test_failures_end_in_a_table_and_exit_code_2(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_scan(tmp_path / "in/good_0000.nii.gz")
    (tmp_path / "in/torn_0000.nii.gz").write_bytes(b"no image")
    assert _predict("-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model) == 2
    told = capsys.readouterr()
    lines = told.err.splitlines()
    start = lines.index("error: 1 case(s) could not be predicted:")
    assert lines[start + 1].split() == ["case", "step", "reason"]
    assert lines[start + 2].split()[:2] == ["torn", "reading"]
    assert "Traceback" not in told.err + told.out
    assert "1 of 2 case(s) are in" in told.out
    assert (tmp_path / "out/good.nii.gz").is_file()


def test_a_defect_shows_where_it_happened_only_if_asked(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    monkeypatch.setattr("framework.inference.predictor.Predictor.logits", lambda *_: 1 / 0)
    arguments = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model]
    assert _predict(*arguments) == 2
    told = capsys.readouterr()
    assert "ZeroDivisionError: division by zero" in told.err
    assert "Run again with --verbose" in told.err
    assert "Traceback" not in told.err + told.out
    assert _predict(*arguments, "--verbose") == 2
    assert "Traceback" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "MODEL", "-f", "4"], "fold_4"),
        (["-m", "nowhere"], "is not a folder"),
        (["-m", "MODEL", "-device", "quantum"], "not known. Use cpu, cuda"),
        (["-m", "MODEL", "-chk", "best"], "checkpoint_best.pth"),
        (["-m", "MODEL", "-step_size", "2"], "found step 2.0, expected"),
        (["-m", "MODEL", "-num_parts", "2", "-part_id", "2"], "parts are counted from 0 to 1"),
        (["-m", "MODEL", "-npp", "-1"], "-npp -1: expected 0 or more"),
        (["-m", "MODEL", "-o", "IN"], "is the folder of the images"),
        (["-m", "MODEL", "-i", "EMPTY"], "holds no file CASE_0000.nii.gz. Found there: nothing at all"),
        (["-m", "MODEL", "-i", "gone.nii.gz"], "gone.nii.gz does not exist"),
    ],
)
def test_what_cannot_work_is_one_message_and_exit_code_2(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    (tmp_path / "empty").mkdir()
    places = {"MODEL": str(model), "IN": str(tmp_path / "in"), "EMPTY": str(tmp_path / "empty")}
    given = [places.get(argument, argument) for argument in arguments]
    code = fw_predict(["-i", places["IN"], "-o", str(tmp_path / "out"), "-device", "cpu", *given])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("error:") == 1
    assert "Traceback" not in error


def test_model_or_dataset_have_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for arguments in ([], ["-m", "a", "-d", "b"], ["-d", "b"]):
        with pytest.raises(SystemExit) as ended:
            _predict("-i", tmp_path, "-o", tmp_path, *arguments)
        assert ended.value.code == 2
    assert "-d needs the configuration too" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path: Path, name: str, code: int):
    model = make_model(tmp_path, network_arguments={"seconds": 0.015})
    scans = {f"case{number}": make_scan(tmp_path / f"in/case{number}_0000.nii.gz", number) for number in range(12)}
    command = [sys.executable, "-m", "framework.commands.predict", "-i", tmp_path / "in", "-o", tmp_path / "out"]
    command += ["-m", model, "-device", "cpu", "--code", "tests.framework.tiny_model"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("case*.nii.gz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "The same command with --continue_prediction goes on" in error
    finished = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").glob("case*.nii.gz")}
    assert 2 <= len(finished) < 12
    assert not list((tmp_path / "out").glob(".*"))
    for case in finished:
        np.testing.assert_array_equal(read_labels(tmp_path / f"out/{case}.nii.gz"), labels_by_hand(scans[case]))
    times = {case: (tmp_path / f"out/{case}.nii.gz").stat().st_mtime_ns for case in finished}
    assert _predict(*command[3:], "--continue_prediction") == 0
    for case, values in scans.items():
        file = tmp_path / f"out/{case}.nii.gz"
        np.testing.assert_array_equal(read_labels(file), labels_by_hand(values))
        assert case not in times or file.stat().st_mtime_ns == times[case]


def test_the_way_to_the_first_tile_imports_neither_plots_nor_statistics(model: Path, tmp_path: Path):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    arguments += ["--code", "tests.framework.tiny_model"]
    program = (
        "import json, sys\n"
        "from framework.commands.predict import main\n"
        "light = 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        f"code = main({arguments})\n"
        "print(json.dumps([code, light, sorted(sys.modules)]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    code, light, modules = json.loads(ended.stdout.splitlines()[-1])
    assert code == 0
    assert light
    heavy = {"matplotlib", "scipy.stats", "pandas", "batchgenerators", "nibabel", "skimage", "torch._dynamo"}
    assert not heavy & set(modules)
