"""Preprocessed cases of one configuration, read packed, unpacked, or from memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from framework.data import case_files
from framework.data.case_files import complete_cases, list_cases, write_case
from framework.data.class_locations import ClassLocations, LocationIndex, compact_class_locations, num_bytes
from framework.data.memory import available_memory, free_disk_space, readable_size
from framework.data.previous_stage import open_prediction
from framework.errors import CaseError, DatasetError, UnknownNameError

__all__ = ["CaseStore", "complete_cases", "list_cases", "write_case"]

Mode = Literal["auto", "packed", "unpacked", "memory"]

_MEMORY_SHARE = 0.25  # of the free memory that "auto" may take for cases; the rest is for workers and batches
_PAGE_CACHE_SHARE = 0.75  # above this, the system cannot keep unpacked files in memory, and packed ones read faster
_DISK_FACTOR = 2  # "auto" unpacks only where this many times the space it needs is free
_MAX_OPEN_CASES = 128  # two open files each; systems commonly allow a process 1024
# Of packed files that are kept open. What was read of them counts as memory of every worker, and opening one of this
# size again costs less than a hundredth of unpacking a patch of it.
_MAX_OPEN_BYTES = 1 << 25
_MAX_LOCATION_BYTES = 1 << 30
_NUM_NAMED = 20


class CaseStore:
    """Preprocessed cases of one configuration.

    Modes: ``packed`` reads and unpacks the chunks that a box touches; ``unpacked`` maps ``.npy`` copies,
    which are written beside the packed files on first use; ``memory`` holds the arrays; ``auto`` decides by
    size against free memory and disk, see `explain`. A store may be handed to forked or spawned workers.
    Call `prepare` before forking, so that they share what is held in memory.
    """

    device = None
    """Voxels are read as numpy arrays; `DeviceStore` has tensors."""

    def __init__(
        self,
        folder: Path | str,
        case_names: Iterable[str] | None = None,
        mode: Mode = "auto",
        previous_stage: Path | None = None,
    ) -> None:
        """
        Args:
            folder: ``PREPROCESSED/DATASET/DATA_IDENTIFIER``.
            case_names: the cases to use; by default all that are there.
            previous_stage: in a cascade, the folder of its predictions; they are read with the segmentations.

        Raises:
            DatasetError: the folder or cases are missing; with ``auto`` also what `check` raises.
        """
        self.folder = Path(folder)
        self.previous_stage = previous_stage
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder} does not exist. Preprocess this configuration first.")
        if mode not in get_args(Mode):
            raise UnknownNameError("store mode", mode, get_args(Mode))
        self.case_names: list[str] = list(list_cases(self.folder) if case_names is None else case_names)
        if not self.case_names:
            raise DatasetError(f"{self.folder} holds no preprocessed case. Preprocess this configuration first.")
        self._headers: dict[str, case_files.CaseHeader] = {}
        self._in_memory: dict[str, tuple[Any, Any, Any]] = {}
        self._index: LocationIndex | None = None
        self._locations: dict[str, ClassLocations] = {}
        self._location_bytes = 0
        # Handles of compressed files must not be shared between threads.
        self._opened = threading.local()
        self.mode: Mode = mode
        self._reason = "as asked for"
        if mode == "auto":
            self.check()
            self.mode, self._reason = self._decide()
        elif mode == "packed" and any(case_files.is_npz(self.folder, case) for case in self.case_names):
            self.mode, self._reason = "unpacked", "files of older versions (.npz) cannot be read in parts"

    def explain(self) -> str:
        """One line: how the cases are read, and why."""
        how = {
            "packed": "read packed",
            "unpacked": "unpacked beside the packed files",
            "memory": "held in memory",
        }
        return f"{len(self.case_names)} cases are {how[self.mode]}: {self._reason}."

    def check(self) -> None:
        """Read the headers of all cases.

        Raises:
            DatasetError: lists every case that is missing, truncated or contradicts itself.
        """
        problems = []
        for case in self.case_names:
            try:
                shape = self._header(case).shape
                if self.previous_stage is not None:
                    open_prediction(self.previous_stage, case, shape[1:])
            except CaseError as error:
                problems.append(str(error))
        if problems:
            surplus = len(problems) - _NUM_NAMED
            more = [f"... and {surplus} more"] if surplus > 0 else []
            raise DatasetError(
                "\n".join(
                    [
                        f"{len(problems)} case(s) in {self.folder} cannot be used:",
                        *problems[:_NUM_NAMED],
                        *more,
                    ]
                )
            )

    def prepare(self) -> None:
        """Do now what would be done at the first use of each case: unpack or load it and its class locations.

        To be called before workers are started, which then share the memory.
        """
        self.prepare_locations()
        for case in self.case_names:
            if self.mode != "packed":
                self._arrays(case)

    def prepare_locations(self) -> None:
        """Gather the class locations of all cases in one file, which all processes share; once for a dataset."""
        self._index = LocationIndex.of_cases(self.folder, self.case_names, self._read_locations, _MAX_LOCATION_BYTES)

    def num_bytes(self) -> int:
        """Size of all cases, unpacked."""
        return sum(self._header(case).num_bytes for case in self.case_names)

    def shape(self, case: str) -> tuple[int, ...]:
        """(C, X, Y, Z), from the header."""
        return self._header(case).shape

    def read(self, case: str, box: Sequence[slice] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Voxels of a case.

        Args:
            box: three slices inside of the image; by default everything.

        Returns:
            Image (C, *box) float32 and segmentation (1, *box) int16, or (2, *box) in a cascade, where that of
            the previous stage comes second. They may be read-only views: copy before changing them.

        Raises:
            CaseError: the files of the case are missing or damaged.
        """
        data, segmentation, previous = self._arrays(case)
        if box is None:
            index: tuple[Any, ...] = (slice(None),) * 4
        else:
            for part, length in zip(box, data.shape[1:]):
                if not 0 <= part.start <= part.stop <= length:
                    raise ValueError(f"box {tuple(box)} leaves case '{case}' of shape {tuple(data.shape)}")
            index = (slice(None), *box)
        try:
            image, labels = data[index], segmentation[index]
            if previous is not None:
                labels = np.concatenate([labels, previous[index[1:]][None]], dtype=np.int16)
        except (RuntimeError, OSError) as error:
            raise CaseError(case, f"its files in {self.folder} are damaged: {error}. Preprocess it again.") from error
        return image.astype(np.float32, copy=False), labels.astype(np.int16, copy=False)

    def properties(self, case: str) -> dict[str, Any]:
        """Geometry, crop and class locations of a case, read from its file."""
        return case_files.read_properties(self.folder, case)

    def class_locations(self, case: str) -> ClassLocations:
        """Foreground key -> (n, 4) voxels [0, x, y, z] of the case; from the index, or read once and kept."""
        if self._index is not None and case in self._index:
            return self._index[case]
        table = self._locations.get(case)
        if table is None:
            table = self._locations[case] = self._read_locations(case)
            self._location_bytes += num_bytes(table)
            while self._location_bytes > _MAX_LOCATION_BYTES and len(self._locations) > 1:
                self._location_bytes -= num_bytes(self._locations.pop(next(iter(self._locations))))
        return table

    def _read_locations(self, case: str) -> ClassLocations:
        return compact_class_locations(self.properties(case).get("class_locations", {}))

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker reads files by itself; sending what is held here would copy it for every worker.
        return self.__dict__ | {"_in_memory": {}, "_locations": {}, "_location_bytes": 0, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._opened = threading.local()

    def _header(self, case: str) -> case_files.CaseHeader:
        header = self._headers.get(case)
        if header is None:
            header = self._headers[case] = case_files.read_header(self.folder, case)
        return header

    def _arrays(self, case: str) -> tuple[Any, Any, Any]:
        """Image, segmentation, and that of the previous stage or None, to be indexed: in memory, mapped, or packed."""
        if self.mode == "memory":
            loaded = self._in_memory.get(case)
            if loaded is None:
                data, segmentation = case_files.load_case(self.folder, case)
                for array in (data, segmentation):
                    array.setflags(write=False)
                previous = self._previous(case)
                loaded = (data, segmentation, None if previous is None else previous[...])
                self._in_memory[case] = loaded
            return loaded
        opened: dict[str, tuple[Any, Any, Any]] = self._opened.__dict__
        arrays = opened.pop(case, None)
        if arrays is None:
            if self.mode == "packed":
                pair = case_files.open_packed_case(self.folder, case)
            else:
                pair = case_files.open_unpacked_case(self.folder, case, self.shape(case))
            arrays = (*pair, self._previous(case))
            while len(opened) >= _MAX_OPEN_CASES or (opened and _open_bytes(opened, arrays) > _MAX_OPEN_BYTES):
                del opened[next(iter(opened))]
        opened[case] = arrays  # last in the order, so the least recently used one is first
        return arrays

    def _previous(self, case: str) -> Any:
        if self.previous_stage is None:
            return None
        return open_prediction(self.previous_stage, case, self.shape(case)[1:])

    def _decide(self) -> tuple[Mode, str]:
        needed, memory = self.num_bytes(), available_memory()
        sizes = f"{readable_size(needed)} unpacked, {readable_size(memory)} of memory free"
        if needed <= _MEMORY_SHARE * memory:
            return "memory", sizes
        disk = free_disk_space(self.folder)
        if disk > _DISK_FACTOR * needed and needed <= _PAGE_CACHE_SHARE * memory:
            return "unpacked", f"{sizes}, {readable_size(disk)} of disk free"
        if any(case_files.is_npz(self.folder, case) for case in self.case_names):
            return "unpacked", f"{sizes}, and files of older versions (.npz) cannot be read in parts"
        return "packed", f"{sizes}, {readable_size(disk)} of disk free"


def _open_bytes(opened: dict[str, tuple[Any, Any, Any]], arrays: tuple[Any, Any, Any]) -> int:
    """Size of the packed files among these."""
    pairs = [*opened.values(), arrays]
    return sum(array.schunk.cbytes for pair in pairs for array in pair[:2] if hasattr(array, "schunk"))
