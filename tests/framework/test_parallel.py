"""Many cases in worker processes: failures, warnings, killed workers, killed parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from framework.errors import CaseError, CaseWarning, DatasetError
from framework.preprocessing import parallel
from framework.preprocessing.case_reports import CasesError, grouped_warnings
from framework.preprocessing.parallel import CasePool

posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX knows them")


def _square(number: int) -> int:
    return number * number


def _refuse_odd(number: int) -> int:
    if number % 2:
        raise CaseError(f"case_{number}", f"{number} is odd")
    return number


def _fail(kind: str) -> str:
    if kind == "memory":
        raise MemoryError("50 GB")
    if kind == "disk":
        raise PermissionError(13, "Permission denied", "/raw/scan.nii.gz")
    if kind == "defect":
        raise KeyError("spacing")
    return kind


def _warn(case: str, value: float) -> str:
    warnings.warn(CaseWarning(f"/raw/{case}_0000.nii.gz: spacing {value} is odd"), stacklevel=2)
    return case


def _kill_own_process_once(mark: str) -> str:
    """The first time it is called with this mark, the process dies as one that runs out of memory does."""
    path = Path(mark)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def _kill_own_process(should: bool) -> bool:
    if should:
        os.kill(os.getpid(), signal.SIGKILL)
    return should


def _process_and_parent(_: int) -> tuple[int, int]:
    return os.getpid(), os.getppid()


@pytest.mark.parametrize("num_processes", [1, 3])
def test_results_come_in_the_order_of_the_cases(num_processes: int) -> None:
    seen: list[tuple[str, int, int]] = []
    results: list[str] = []
    arguments = {f"case_{number}": (number,) for number in range(20)}
    with CasePool(num_processes) as pool:
        progress, on_result = (lambda *state: seen.append(state)), (lambda case, _: results.append(case))
        found = pool.run(_square, arguments, "squares", progress, on_result)
    assert list(found.items()) == [(f"case_{number}", number * number) for number in range(20)]
    assert seen == [("squares", done, 20) for done in range(21)]
    assert sorted(results) == sorted(arguments)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_cases_that_fail_are_listed_and_the_others_are_done(num_processes: int) -> None:
    done: list[str] = []
    arguments = {f"case_{number}": (number,) for number in range(5)}
    with CasePool(num_processes) as pool, pytest.raises(CasesError) as caught:
        pool.run(_refuse_odd, arguments, "looking", on_result=lambda case, _: done.append(case))
    assert sorted(done) == ["case_0", "case_2", "case_4"]
    assert caught.value.reasons == {"case_1": "1 is odd", "case_3": "3 is odd"}
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 5 cases cannot be used (looking):"
    assert [line.split() for line in lines[1:3]] == [["case", f"'case_{n}'", f"{n}", "is", "odd"] for n in (1, 3)]
    assert lines[3].startswith("The other 3 cases are fine.")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_file_that_cannot_be_opened_and_too_little_memory_are_no_defects(num_processes: int) -> None:
    with CasePool(num_processes) as pool, pytest.raises(DatasetError) as caught:
        pool.run(_fail, {"a": ("memory",), "b": ("disk",), "c": ("",)})
    assert "not enough memory" in str(caught.value)
    assert "-np 1" in str(caught.value)
    assert "/raw/scan.nii.gz: Permission denied" in str(caught.value)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_defect_is_raised_after_the_others_were_done(num_processes: int) -> None:
    done: list[str] = []
    with CasePool(num_processes) as pool, pytest.raises(KeyError, match="spacing"):
        pool.run(_fail, {"a": ("defect",), "b": ("",), "c": ("",)}, on_result=lambda case, _: done.append(case))
    assert sorted(done) == ["b", "c"]


def test_long_lists_are_cut_and_the_complete_one_is_named() -> None:
    error = CasesError("reading", {f"case_{number:02}": "bad" for number in range(50)}, 60)
    assert len(str(error).splitlines()) == 23
    assert "... and 30 more" in str(error)
    assert "case_49" in error.complete_text
    assert "... and 30 more; all of them are listed in /some.log" in str(error.with_complete_list(Path("/some.log")))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_warnings_of_cases_reach_this_process_and_each_is_taken_once(num_processes: int) -> None:
    arguments = {f"case_{number}": (f"case_{number}", 0.5 + number) for number in range(3)}
    with CasePool(num_processes) as pool:
        pool.run(_warn, arguments)
        expected = {case: [f"/raw/{case}_0000.nii.gz: spacing {value} is odd"] for case, value in arguments.values()}
        assert pool.take_warnings() == expected
        pool.run(_warn, arguments)  # as when the fingerprint and preprocessing read the same scan
        assert pool.take_warnings() == {}


def test_warnings_that_differ_only_in_case_and_numbers_become_one_line() -> None:
    found = {f"scan{number}": [f"/raw/scan{number}.nii.gz: origin {number / 7} ignored"] for number in range(6)}
    found["scan2"].append("something else")
    assert grouped_warnings(found) == [
        "/raw/scan0.nii.gz: origin 0.0 ignored (likewise 5 cases more: scan1, scan2, scan3 and 2 more)",
        "something else",
    ]


@posix
def test_cases_of_a_worker_that_the_system_kills_are_done_again(tmp_path: Path) -> None:
    arguments = {str(number): (str(tmp_path / str(number)),) for number in range(12)}
    for number in range(12):
        if number not in (3, 7):
            (tmp_path / str(number)).touch()
    with CasePool(3) as pool:
        found = pool.run(_kill_own_process_once, arguments)
        assert found == {str(number): str(number) for number in range(12)}
        interrupted = pool.take_warnings()
        assert pool.run(_square, {"a": (2,), "b": (3,)}) == {"a": 4, "b": 9}  # the pool goes on
    assert {"3", "7"} <= set(interrupted)
    assert "the system ended a process" in interrupted["3"][0]


@posix
def test_a_case_that_kills_every_worker_is_the_only_one_that_fails() -> None:
    arguments = {f"case_{number}": (number == 4,) for number in range(10)}
    with CasePool(2) as pool, pytest.raises(CasesError) as caught:
        pool.run(_kill_own_process, arguments)
    assert list(caught.value.reasons) == ["case_4"]
    assert "the system ended the process" in caught.value.reasons["case_4"]


def test_no_more_cases_are_in_work_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_memory", lambda: 10_000)
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 8)
    arguments = {str(number): (number,) for number in range(8)}
    with CasePool() as pool:
        # one fits: it is done in this process
        assert {process for process, _ in pool.run(_process_and_parent, arguments, bytes_per_case=6000).values()} == {
            os.getpid()
        }
        assert pool._cases_that_fit(3000) == 3
        assert pool._cases_that_fit(0) == 8
    with CasePool(4) as pool:
        assert pool._cases_that_fit(6000) == 4  # who names a number gets it


_PARENT = """
import os, sys, time
from framework.preprocessing.parallel import CasePool
from tests.framework.test_parallel import _tell_and_sleep
with CasePool(2) as pool:
    pool.run(_tell_and_sleep, {str(number): (sys.argv[1], number) for number in range(2)})
"""


def _tell_and_sleep(folder: str, number: int) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def _is_alive(process: int) -> bool:
    try:
        # a process that ended but that nobody waited for is still listed, as a zombie
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    assert all(_is_alive(worker) for worker in workers)
    parent.kill()
    parent.wait()
    while any(_is_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_is_alive(worker) for worker in workers)
