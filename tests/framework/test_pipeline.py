"""Cases on their way through reading, the network and writing."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framework.errors import CaseError
from framework.inference.pipeline import CaseFailure, StopPrediction, predict_cases

CASES = [f"case_{number}" for number in range(8)]
_PATIENCE = 10.0


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


@pytest.mark.parametrize(("num_readers", "num_writers"), [(0, 0), (1, 1), (3, 2)])
def test_every_case_is_read_predicted_and_written_once_with_its_own_values(num_readers: int, num_writers: int) -> None:
    written: dict[str, tuple[str, str]] = {}
    finished: list[str] = []
    failures = predict_cases(
        CASES,
        lambda case: (f"image of {case}", f"properties of {case}"),
        lambda case, item: f"logits of {item}",
        lambda case, logits, properties: written.update({case: (logits, properties)}),
        num_readers=num_readers,
        num_writers=num_writers,
        on_case=lambda case, failure: finished.append(case),
    )
    assert failures == []
    assert sorted(finished) == CASES
    assert written == {case: (f"logits of image of {case}", f"properties of {case}") for case in CASES}


def test_reading_the_network_and_writing_overlap() -> None:
    # Each of the three waits for the other two: without overlap this would never end.
    meeting = threading.Barrier(3, timeout=_PATIENCE)
    cases = ["a", "b", "c"]

    def read(case: str) -> tuple[str, None]:
        if case == "c":
            meeting.wait()
        return case, None

    def network(case: str, item: str) -> str:
        if case == "b":
            meeting.wait()
        return item

    def write(case: str, result: str, extra: None) -> None:
        if case == "a":
            meeting.wait()

    assert predict_cases(cases, read, network, write, num_readers=1, num_writers=1) == []


def test_the_network_and_the_callbacks_run_in_the_calling_thread() -> None:
    here = threading.get_ident()
    threads: dict[str, set[int]] = {"read": set(), "network": set(), "write": set(), "on_case": set()}

    def note(what: str) -> None:
        threads[what].add(threading.get_ident())

    predict_cases(
        CASES,
        lambda case: (note("read"), None),
        lambda case, item: note("network"),
        lambda case, result, extra: note("write"),
        on_case=lambda case, failure: note("on_case"),
    )
    assert threads["network"] == threads["on_case"] == {here}
    assert here not in threads["read"] | threads["write"]


@pytest.mark.parametrize(("num_readers", "num_writers"), [(1, 1), (2, 3)])
def test_only_a_few_cases_are_in_memory_at_a_time(num_readers: int, num_writers: int) -> None:
    begun: list[str] = []
    left_network: list[str] = []
    written: list[str] = []
    go_on = threading.Event()
    cases = [str(number) for number in range(30)]

    def read(case: str) -> tuple[str, None]:
        begun.append(case)
        return case, None

    def network(case: str, item: str) -> str:
        if not left_network:
            # One is in the network; readers go on until num_readers + 1 wait for it, and no further.
            _wait_until(lambda: len(begun) == 1 + num_readers + 1)
            time.sleep(0.05)
            assert len(begun) == 1 + num_readers + 1
        left_network.append(case)
        return item

    def write(case: str, result: str, extra: None) -> None:
        assert go_on.wait(_PATIENCE)
        written.append(case)

    def watch() -> None:
        # Writers take their time: num_writers + 1 are theirs, one more has left the network and waits for room.
        _wait_until(lambda: len(left_network) == num_writers + 2)
        time.sleep(0.05)
        counts.append(len(left_network))
        go_on.set()

    counts: list[int] = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    failures = predict_cases(cases, read, network, write, num_readers=num_readers, num_writers=num_writers)
    watcher.join()
    assert failures == []
    assert counts == [num_writers + 2]
    assert sorted(written) == sorted(cases)


def test_arrays_are_let_go_of_when_their_step_is_over() -> None:
    images: list[weakref.ref[np.ndarray]] = []
    logits: list[weakref.ref[np.ndarray]] = []

    def read(case: str) -> tuple[np.ndarray, None]:
        image = np.zeros(1000)
        images.append(weakref.ref(image))
        if case == "bad":
            raise CaseError(case, "no good")
        return image, None

    def network(case: str, image: np.ndarray) -> np.ndarray:
        if case == "worse":
            raise MemoryError
        result = image + 1
        logits.append(weakref.ref(result))
        return result

    alive_while_writing: list[int] = []

    def write(case: str, result: np.ndarray, extra: None) -> None:
        gc.collect()
        alive_while_writing.append(sum(reference() is not None for reference in images))

    failures = predict_cases(["a", "bad", "worse", "b"], read, network, write, num_readers=0, num_writers=0)
    assert [failure.case for failure in failures] == ["bad", "worse"]
    assert alive_while_writing == [0, 0]
    gc.collect()
    assert not any(reference() is not None for reference in [*images, *logits])  # the failures hold nothing either


def test_a_case_that_fails_at_any_step_does_not_stop_the_others() -> None:
    written: list[str] = []
    seen: dict[str, CaseFailure | None] = {}

    def read(case: str) -> tuple[str, None]:
        if case == "case_1":
            raise CaseError(case, "its file is truncated")
        return case, None

    def network(case: str, item: str) -> str:
        if case == "case_3":
            raise RuntimeError("CUDA out of memory. Tried to allocate 40.00 GiB.\nMany more lines")
        if case == "case_4":
            raise ZeroDivisionError("division by zero")
        return item

    def write(case: str, result: str, extra: None) -> None:
        if case == "case_5":
            raise OSError(28, "No space left on device")
        written.append(case)

    failures = predict_cases(
        CASES,
        read,
        network,
        write,
        num_readers=2,
        num_writers=2,
        on_case=lambda case, failure: seen.update({case: failure}),
    )
    assert [(failure.case, failure.step) for failure in failures] == [
        ("case_1", "reading"),
        ("case_3", "predicting"),
        ("case_4", "predicting"),
        ("case_5", "writing"),
    ]
    assert failures[0].message == "its file is truncated"  # the table has the name of the case in another column
    assert "not enough memory" in failures[1].message
    assert "40.00 GiB" in failures[1].message
    assert "\n" not in failures[1].message
    assert failures[2].message == "ZeroDivisionError: division by zero"
    assert "in network" in failures[2].details  # where it was raised
    assert [failure.is_defect for failure in failures] == [False, False, True, False]
    assert sorted(written) == ["case_0", "case_2", "case_6", "case_7"]
    assert {case for case, failure in seen.items() if failure is None} == set(written)
    assert set(seen) == set(CASES)


def test_a_case_that_is_slow_to_read_holds_up_no_other() -> None:
    others_are_done = threading.Event()
    order: list[str] = []

    def read(case: str) -> tuple[str, None]:
        if case == "case_0":
            assert others_are_done.wait(_PATIENCE)
        return case, None

    def write(case: str, result: str, extra: None) -> None:
        order.append(case)
        if len(order) == len(CASES) - 1:
            others_are_done.set()

    assert predict_cases(CASES, read, lambda case, item: item, write, num_readers=2) == []
    assert order[-1] == "case_0"
    assert sorted(order) == CASES


def test_once_it_should_stop_no_case_is_begun_and_those_behind_the_network_are_written() -> None:
    written: list[str] = []
    stopped = threading.Event()
    network_calls: list[str] = []

    def network(case: str, item: str) -> str:
        network_calls.append(case)
        if case == "case_2":
            stopped.set()
        return item

    def write(case: str, result: str, extra: None) -> None:
        time.sleep(0.02)
        written.append(case)

    failures = predict_cases(CASES, lambda case: (case, None), network, write, stop=stopped.is_set)
    assert failures == []
    assert network_calls == written == ["case_0", "case_1", "case_2"]


def test_the_network_may_give_up_in_the_middle_of_a_case() -> None:
    written: list[str] = []

    def network(case: str, item: str) -> str:
        if case == "case_1":
            raise StopPrediction
        return item

    failures = predict_cases(
        CASES, lambda case: (case, None), network, lambda case, result, extra: written.append(case)
    )
    assert failures == []
    assert written == ["case_0"]


def test_an_interrupt_ends_what_is_being_written_and_begins_nothing_else() -> None:
    written: list[str] = []
    writing, go_on = threading.Event(), threading.Event()

    def network(case: str, item: str) -> str:
        if case == "case_2":
            assert writing.wait(_PATIENCE)
            threading.Timer(0.05, go_on.set).start()
            raise KeyboardInterrupt
        return item

    def write(case: str, result: str, extra: None) -> None:
        writing.set()
        assert go_on.wait(_PATIENCE)
        written.append(case)

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        predict_cases(CASES, lambda case: (case, None), network, write)
    assert written == ["case_0"]
    _wait_until(lambda: threading.active_count() <= before)  # no thread is left behind


def test_the_first_cases_are_read_while_the_network_is_prepared() -> None:
    reading = threading.Event()

    def read(case: str) -> tuple[str, None]:
        reading.set()
        return case, None

    def prepare() -> None:
        assert reading.wait(_PATIENCE)

    order: list[str] = []
    predict_cases(CASES, read, lambda case, item: order.append("network"), lambda *_: None, prepare=prepare)
    assert len(order) == len(CASES)

    def failing() -> None:
        raise CaseError("checkpoint", "does not fit")

    with pytest.raises(CaseError, match="does not fit"):
        predict_cases(CASES, read, lambda case, item: item, lambda *_: None, prepare=failing)


def test_no_cases_are_no_work(tmp_path: Path) -> None:
    assert predict_cases([], lambda case: (case, None), lambda case, item: item, lambda *_: None) == []
