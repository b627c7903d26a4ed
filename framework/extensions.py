"""A class by name: a name in a table, ``package.module:Class``, or ``file.py:Class``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from framework.errors import FoldwiseError, UnknownNameError, did_you_mean
from framework.named_code import vouch_for, why_not_run


def trainer_table() -> dict[str, str]:
    """Trainers by short name: what installed packages announce in the entry-point group ``foldwise.trainers``.

    An entry point names a plain dict ``{short name: "package.module:Class"}``.
    """
    table: dict[str, str] = {}
    for entry in entry_points(group="foldwise.trainers"):
        table.update(entry.load())
    return table


def find_trainer(name: str, named_by: str | Path | None = None) -> Any:
    """The trainer class that `name` stands for. Only this one is imported."""
    from framework.base_trainer import BaseTrainer

    return find_class(name, base=BaseTrainer, kind="trainer", table=trainer_table(), named_by=named_by)


def find_class(
    name: str, *, base: type, kind: str, table: Mapping[str, str], named_by: str | Path | None = None
) -> Any:
    """Load the class and check what it is.

    Args:
        named_by: the file in which the name was found; its word does not suffice to run code that is not installed,
            see `framework.named_code`. None where the user named it.

    Raises:
        FoldwiseError: unknown name, module that cannot be imported, or a class of another kind.
    """
    location = table.get(name, name)
    if ":" not in location:
        raise UnknownNameError(
            kind, name, table, "give a name from the table, package.module:Class, or file.py:Class; here"
        )
    module_name, _, class_name = location.rpartition(":")
    if named_by is None:
        vouch_for(location)
    elif name not in table and (reason := why_not_run(location)) is not None:
        raise FoldwiseError(f"{named_by}: {kind} {reason}")
    module = load_file(Path(module_name)) if module_name.endswith(".py") else _import(module_name, kind)
    found = getattr(module, class_name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
        raise UnknownNameError(kind, class_name, classes, module_name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise FoldwiseError(f"{location} is not a {base.__name__}; derive it from {base.__module__}.{base.__name__}.")
    return found


def location_of(cls: type) -> str:
    """The text by which `find_class` finds this class again."""
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file_of_extension__", None)
    return f"{file or cls.__module__}:{cls.__qualname__}"


def _import(module_name: str, kind: str) -> ModuleType:
    # A command does not have the working folder on its path, unlike ``python -m``; users expect it. It comes last: a
    # file there must not take the place of a package that is imported later.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        near = did_you_mean(module_name, sys.modules)
        raise FoldwiseError(
            f"{kind} module '{module_name}' cannot be found.{near} "
            "Install its package, run from the folder that holds it, or give the file: path/to/file.py:Class."
        ) from None


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own; a second call returns the same module."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise FoldwiseError(f"{path} does not exist; expected a Python file in file.py:Class.")
    # One name per file: the class is the same object however often it is asked for, and pickles in workers.
    name = f"foldwise_extension_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__file_of_extension__"] = str(path)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
