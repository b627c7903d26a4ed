"""What a checkpoint from anywhere may hold: how large it may become, and of which form its known entries are."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from framework.errors import CheckpointError
from framework.progress import Progress
from framework.validation import convert, describe, shown

_LARGEST_PICKLE = 64 << 20
"""Bytes that describe the tensors and hold all other values; a training of 1000 epochs has below 2 MB."""
_HARMLESS = 64 << 20
"""So many bytes more than the file may be claimed without further questions."""
_DEEPEST = 100
_ZIP_BEGINS = b"PK\3\4"

_Counter = Literal["between epochs", "training", "validation", "after validation"]
_FORMS: dict[str, Any] = {
    "optimizer_state": dict | None,
    "grad_scaler_state": dict | None,
    "logging": dict[str, list[Any]] | None,
    "current_epoch": int,
    "trainer_name": str,
    "init_args": dict | None,
    "inference_allowed_mirroring_axes": tuple[int, ...] | None,
}
_OWN_FORMS: dict[str, Any] = {
    "trainer": str,
    "progress": dict,
    "update": dict,
    "loss": dict,
    "history": dict,
    "hooks": dict[str, dict],
    "train_outputs": list[dict],
    "validation_outputs": list[dict],
    "settings": dict,
    "changed_settings": list[dict],
    "experiment": dict | None,
    "versions": dict[str, str],
    "data": dict[str, str],
}
_NOT_NEEDED = ("changed_settings", "experiment", "versions", "data")
_PROGRESS_FORMS: dict[str, Any] = {"phase": _Counter, "finished": bool}


def refuse_packed(path: Path) -> None:
    """Refuse a file that may take far more memory than disk, before any of it is loaded.

    Raises:
        ValueError: with the reason; also for anything but the zip that ``torch.save`` has written since 1.6.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            start = file.read(4)
        if not start.strip(b"\0"):
            raise ValueError("it is empty or holds zeros.")
        cut = start == _ZIP_BEGINS
        raise ValueError("its end is missing." if cut else "it is no checkpoint of torch 1.6 or later.")
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is packed; torch saves checkpoints unpacked.")
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > size:  # entries that share their bytes
            raise ValueError(f"its {size} bytes claim to unpack to {unpacked}.")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                if entry.file_size > _LARGEST_PICKLE:
                    raise ValueError(f"it holds {entry.file_size} bytes that are no tensors.")
                if _BYTEARRAY.search(archive.read(entry)):
                    raise ValueError("it names bytearray, of which a short text makes one of any size.")


_BYTEARRAY = re.compile(rb"c(builtins|__builtin__)\nbytearray\n")


def numpy_globals() -> list[Any]:
    """What nnU-Net's checkpoints refer to: numpy's numbers and arrays, under the names of numpy 1 and 2."""
    allowed: list[Any] = [(_dtype, "numpy.dtype"), (_Array, "numpy.ndarray")]
    for name in ("Float64DType", "Float32DType", "Float16DType", "Int64DType", "Int32DType", "BoolDType", "UInt8DType"):
        with contextlib.suppress(AttributeError):
            allowed.append(getattr(np.dtypes, name))
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(_scalar, f"{module}.scalar"), (_reconstruct, f"{module}._reconstruct")]
    return allowed


# numpy's own functions make room for as much as a short text asks for. These make what pickles of numpy ask them to.


class _Array(np.ndarray):
    """An array that only a pickle's own content can fill."""

    def __new__(cls, *arguments: Any) -> _Array:
        raise ValueError("it makes an array that it has no content for")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array or tuple(shape) != (0,):
        raise ValueError("it makes an array that it has no content for")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype:
    if not isinstance(code, str) or not re.fullmatch(r"[biufc?]\d{0,2}", code):
        raise ValueError(f"it holds numbers of the type {code!r:.50}")
    return np.dtype(code, copy=True)  # what follows may turn its byte order


def _scalar(kind: Any, content: Any) -> Any:
    content = content.encode("latin-1") if isinstance(content, str) else content
    if not isinstance(kind, np.dtype) or not isinstance(content, bytes) or len(content) != kind.itemsize:
        raise ValueError("it holds a number without its bytes")
    return np.frombuffer(content, kind)[0]


def check_content(state: Any, source: Path | str, size: int) -> None:
    """Make sure that what was loaded takes no more memory than its file, and is of the form that a checkpoint has.

    Args:
        size: of the file, in bytes.

    Raises:
        CheckpointError: names the entries that are wrong.
    """
    if not isinstance(state, dict) or "network_weights" not in state:
        raise CheckpointError(f"{source} is no checkpoint: it has no entry 'network_weights'.")
    problems = _oversized(state, size) or _malformed(state)
    if problems:
        raise CheckpointError(
            f"{source} is no checkpoint that can be used: {'; '.join(problems[:5])}. It is damaged, or was made by "
            "another program. Use another checkpoint of the same run."
        )


def check_resumable(state: Mapping[str, Any], source: Path | str) -> None:
    """Make sure that a loaded checkpoint holds all that a training needs to go on.

    Raises:
        CheckpointError: it is one for prediction only; names what is missing.
    """
    own = state.get("foldwise")
    missing = [key for key in ("optimizer_state", "current_epoch") if state.get(key) is None]
    if own is not None:
        missing += [f"foldwise.{key}" for key in _OWN_FORMS if key not in own and key not in _NOT_NEEDED]
        progress, settings = own.get("progress", {}), own.get("settings", {})
        missing += [f"foldwise.progress.{each.name}" for each in fields(Progress) if each.name not in progress]
        missing += ["foldwise.settings.num_epochs"] if "num_epochs" not in settings else []
    if missing:
        raise CheckpointError(
            f"{source} cannot be continued: it lacks {', '.join(missing)}. A checkpoint that was made for prediction, "
            "such as one of an imported model, can be a start: -pretrained_weights."
        )


@contextlib.contextmanager
def taken_from(source: Path | str, part: str) -> Iterator[None]:
    """What a part of the training objects to while it takes its state back, as one message about the checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{source}: the state of {part} does not fit this training ({reason:.500}). Resume with the trainer and "
            "plans that the run was started with, or use another checkpoint of the same run."
        ) from error


def _oversized(state: dict[str, Any], size: int) -> list[str]:
    """Tensors that claim more than was stored, values that are nested too deeply or are none of a checkpoint's."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    repeated = 0
    larger = ""
    # Not recursive: lists can be nested, and hold each other, as their author likes.
    waiting: list[tuple[Any, int, Any]] = [(state, 0, "")]
    while waiting:
        value, depth, name = waiting.pop()
        if isinstance(value, (dict, list, tuple, set, Tensor, np.ndarray)):
            if id(value) in seen:
                continue
            seen.add(id(value))
        if depth > _DEEPEST:
            return [f"its values are nested more than {_DEEPEST} deep"]
        if isinstance(value, dict):
            if isinstance(value, OrderedDict) and set(vars(value)) - {"_metadata"}:
                return ["it holds a dict with attributes"]
            waiting += [(entry, depth + 1, key) for key, entry in value.items()]
            waiting += [(key, depth + 1, name) for key in value if isinstance(key, tuple)]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(entry, depth + 1, name) for entry in value]
        elif isinstance(value, np.ndarray):
            storages[id(value)] = value.nbytes
        elif isinstance(value, Tensor):
            if value.device.type == "meta" or value.is_quantized or vars(value):
                return ["it holds a tensor without voxels of its own, or with attributes"]
            if value.layout != torch.strided:
                continue  # as large as its indices and values
            storage = Tensor.untyped_storage(value)
            storages[storage.data_ptr() or id(value)] = storage.nbytes()
            claimed = value.numel() * value.element_size()
            if claimed > storage.nbytes():
                repeated += claimed
                larger = f"the tensor '{name!s:.200}' {list(value.shape)} is larger than what is stored of it"
    if repeated > _HARMLESS:
        return [larger]
    if sum(storages.values()) > size + _HARMLESS:
        return ["its tensors are larger than the file"]
    return []


def _malformed(state: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    weights = state["network_weights"]
    if not isinstance(weights, dict):
        problems.append(f"it holds no weights: 'network_weights' is {shown(weights)}")
    else:
        bad = [key for key, value in weights.items() if not _is_weight(key, value)]
        problems += [f"'{key!s:.200}' among the weights is no tensor but {shown(weights[key])}" for key in bad[:1]]
        metadata = getattr(weights, "_metadata", {})
        if not isinstance(metadata, dict) or not all(isinstance(entry, dict) for entry in metadata.values()):
            problems.append("the versions of its modules are damaged")
    problems += _wrong(state, _FORMS, "")
    if isinstance(epoch := state.get("current_epoch"), int) and not 0 <= epoch < 2**31:
        problems.append(f"'current_epoch' is {epoch}, expected a number of epochs")
    axes = state.get("inference_allowed_mirroring_axes")
    if isinstance(axes, (list, tuple)) and not set(map(repr, axes)) <= {"0", "1", "2"}:
        problems.append(f"'inference_allowed_mirroring_axes' is {shown(axes)}, expected axes 0 to 2")
    if "foldwise" not in state:
        return problems
    own = state["foldwise"]
    if not isinstance(own, dict):
        return [*problems, f"'foldwise' is {shown(own)}, expected an object"]
    problems += _wrong(own, _OWN_FORMS, "foldwise.")
    if isinstance(progress := own.get("progress"), dict):
        known = {each.name: _PROGRESS_FORMS.get(each.name, int) for each in fields(Progress)}
        problems += [f"'foldwise.progress.{shown(key)}' is not known" for key in progress if key not in known]
        problems += _wrong(progress, known, "foldwise.progress.")
        counts = [value for value in progress.values() if isinstance(value, int)]
        if any(not 0 <= count < 2**31 for count in counts):
            problems.append("'foldwise.progress' counts below zero, or without end")
    if isinstance(history := own.get("history"), dict):
        forms = {"rows": list[dict[str, Any]], "running": dict | None}
        missing = [key for key in forms if key not in history]
        problems += [f"'foldwise.history.{key}' is missing" for key in missing]
        problems += _wrong(history, forms, "foldwise.history.")
    if isinstance(settings := own.get("settings"), dict):
        problems += _wrong(settings, {"num_epochs": int}, "foldwise.settings.")
    return problems


def _is_weight(name: Any, value: Any) -> bool:
    # A module may keep something else in its state, under a name of torch's.
    return isinstance(name, str) and (isinstance(value, Tensor) or name.endswith("_extra_state"))


def _wrong(block: dict[Any, Any], forms: dict[str, Any], place: str) -> list[str]:
    problems = []
    for key, form in forms.items():
        if key not in block:
            continue
        try:
            convert(block[key], form)
        except TypeError:
            problems.append(f"'{place}{key}' is {shown(block[key])}, expected {describe(form)}")
    return problems
