"""The frame of every run that prepares a dataset: alone, with workers, and with all that happens on record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from framework.errors import FoldwiseError
from framework.preprocessing.case_reports import CasesError, grouped_warnings
from framework.preprocessing.dataset_lock import dataset_lock, remove_leftovers
from framework.preprocessing.parallel import CasePool
from framework.preprocessing.run_log import RunLog


@contextmanager
def dataset_run(
    folder: Path, log: RunLog, pool: CasePool | None = None, num_processes: int | None = None
) -> Iterator[CasePool]:
    """Hold the lock of a dataset and give workers; afterwards tell what cases warned of.

    Args:
        folder: ``PREPROCESSED/DATASET``.
        pool: used, and left open, instead of a new one with `num_processes`.

    Raises:
        CasesError: as it was raised inside, with the place of the complete list.
    """
    with dataset_lock(folder, log.say) as alone:
        if alone:
            remove_leftovers(folder / "foldwise", (".json",))
            remove_leftovers(folder / "gt_segmentations", ("",))
            for data_folder in _data_folders(folder):
                # .npy files there are unpacked by trainings, which may be running
                remove_leftovers(data_folder, (".b2nd", ".pkl"))
        with nullcontext(pool) if pool is not None else CasePool(num_processes) as workers:
            try:
                yield workers
            except CasesError as error:
                log.record(error.complete_text)
                raise error.with_complete_list(log.path) from None
            except FoldwiseError as error:
                log.record(f"error: {error}")
                raise
            except KeyboardInterrupt:
                log.record("interrupted")
                raise
            finally:
                _report_warnings(workers, log)


def _data_folders(folder: Path) -> list[Path]:
    """Those that Foldwise has a record of, and so writes into."""
    records = (folder / "foldwise").glob("*.json")
    return [folder / record.stem for record in records if (folder / record.stem).is_dir()]


def _report_warnings(pool: CasePool, log: RunLog) -> None:
    found = pool.take_warnings()
    for line in grouped_warnings(found):
        log.say(f"warning: {line}")
    for texts in found.values():
        for text in texts:
            log.record(f"warning: {text}")
