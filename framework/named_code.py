"""Code that a file names, in plans or in a checkpoint: which of it is run here.

Importing a module runs it. So a file may name classes of installed packages only; everything else needs the word of the
user, given in this process: on the command line (``-tr``, ``--hook``, ``--set``, ``--code``), or by a program that has
imported the code itself. `docs/decisions/0012-what-plans-may-name.md` says why.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from framework.errors import PlansError

_OWN = ("framework", "trainers", "plans")
_LOCATION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*|.*\.py(:.*)?", re.DOTALL)
"""``package.module:Class``, or a Python file."""

_vouched_for: set[str] = set()
"""Files by their full path, and modules by name."""


def names_a_class(text: str) -> bool:
    """Whether a text is of the form ``package.module:Class`` or ``file.py:Class``."""
    return _LOCATION.fullmatch(text) is not None


def names_a_file(location: str) -> bool:
    """Whether a class location is of the form ``file.py:Class``."""
    module = module_of(location)
    return module.endswith(".py") or "/" in module or "\\" in module


def module_of(location: str) -> str:
    """``package.module:Class`` -> ``package.module``; ``file.py`` without a class stays as it is."""
    return location.rpartition(":")[0] or location


def vouch_for(location: str) -> None:
    """Take the user's word for a Python file or a module, until this process ends.

    Args:
        location: ``file.py``, ``module``, or a class in one of them; names without a module say nothing.
    """
    module = module_of(location)
    _vouched_for.add(_full_path(module) if names_a_file(location) else module)


def vouch_for_all(values: Mapping[str, Any]) -> None:
    """`vouch_for` every class that the user names in overrides of a plan, as a value or in the path of a field."""
    for path, value in values.items():
        named = re.findall(r"""[^\[\]"']+""", path)
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{", '"'):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue  # told where it is read
        for text in [*named, *_texts_of(value)]:
            if names_a_class(text):
                vouch_for(text)


def why_not_run(location: Any, *, only_installed: bool = False) -> str | None:
    """Why the class that a file names is not looked for; None if it may be. Nothing is imported.

    Args:
        location: ``package.module:Class``, ``package.module.Class``, or ``file.py:Class``.
        only_installed: the user's word does not count.
    """
    if not isinstance(location, str):
        return f"{location!r:.100} is no name of a class"
    if names_a_file(location):
        known = not only_installed and _is_known_file(module_of(location))
        return None if known else f"'{location}' {_NOT_NAMED}"
    parts = location.replace(":", ".").split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return f"'{location:.200}' is no name of a class"
    modules = [".".join(parts[:length]) for length in range(1, len(parts))]
    # What runs in this process already was imported by whoever wrote it, not by us.
    if not only_installed and (modules[-1] in sys.modules or not _vouched_for.isdisjoint(modules)):
        return None
    package = parts[0]
    what = f"the package '{package}' of '{location}' is not installed"
    if package in sys.stdlib_module_names or "__main__" in parts:
        return f"{what}: it is a program, or part of Python itself"
    found = _where(package)
    if found is None:
        return what
    return None if _is_installed(package, found) else f"{what}, it lies in {found[0].parent}. It {_NOT_NAMED}"


def refuse_unnamed_code(configuration: Any, source: str) -> None:
    """Make sure that a configuration names no class that is not run here.

    Args:
        configuration: of the plans, with the user's overrides applied.

    Raises:
        PlansError: lists every such class, with what to do.
    """
    problems = [
        f"{source}: configurations.{configuration.name}.{place}: {reason}"
        for place, location in _classes_of(configuration)
        if (reason := why_not_run(location)) is not None
    ]
    if problems:
        raise PlansError("\n".join(problems))


_NOT_NAMED = (
    "is not run because a file names it. If you know what is in it, say so: --code with this file or module, in the "
    "same command (in Python: import it, or framework.named_code.vouch_for)."
)


def _classes_of(configuration: Any) -> Iterator[tuple[str, str]]:
    """(place, location) of everything that a training builds because its configuration names it by its module.

    Its trainer is looked for where none is named on the command line, in `framework.experiment.trainer_in_plans`.
    """
    architecture = configuration.architecture
    if architecture is not None and "." in architecture.network_class_name:
        name = architecture.network_class_name
        if not name.startswith("dynamic_network_architectures."):  # ours answer to these names
            yield "architecture.network_class_name", name
    places = {
        "training.hooks": configuration.training.hooks,
        "augmentation": configuration.augmentation,
    }
    for place, value in places.items():
        for text in _texts_of(value):
            if names_a_class(text):
                yield place, text


def _texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts_of(key)
            yield from _texts_of(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _texts_of(entry)


def _full_path(file: str) -> str:
    return str(Path(file).expanduser().resolve())


def _is_known_file(file: str) -> bool:
    try:
        path = _full_path(file)
    except (OSError, ValueError, RuntimeError):  # a zero byte, a user that does not exist
        return False
    if path in _vouched_for:
        return True
    return any(_file_of(module) == path for module in list(sys.modules.values()))


def _file_of(module: Any) -> str | None:
    file = getattr(module, "__file_of_extension__", None) or getattr(module, "__file__", None)
    return file if isinstance(file, str) else None


def _where(package: str) -> list[Path] | None:
    """The files or folders that ``import package`` would run; None if there is no such package."""
    for finder in sys.meta_path:
        # A top-level name: looking for it imports nothing.
        find: Any = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(package, None) if find is not None else None
        if spec is None:
            continue
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        return [Path(place).resolve() for place in places] or None
    return None


def _is_installed(package: str, places: list[Path]) -> bool:
    if package in _OWN:
        own = Path(__file__).resolve().parents[1]
        return all(place.is_relative_to(own) for place in places)
    # A folder of that name where the user happens to work must not stand for the package.
    return all(_lies_in(place, _install_folders()) for place in places) or all(
        _lies_in(place, _folders_of_distributions(package)) for place in places
    )


def _lies_in(place: Path, folders: tuple[Path, ...]) -> bool:
    return any(place.is_relative_to(folder) for folder in folders)


@cache
def _install_folders() -> tuple[Path, ...]:
    names = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        names.add(site.getusersitepackages())
    return tuple(Path(name).resolve() for name in names)


@cache
def _folders_of_distributions(package: str) -> tuple[Path, ...]:
    """Where installed distributions that hold `package` lie: on HPC systems on PYTHONPATH, or a checkout."""
    folders = []
    for name in set(importlib.metadata.packages_distributions().get(package, ())):
        distribution = importlib.metadata.distribution(name)
        folder = Path(str(distribution.locate_file(""))).resolve()
        if folder != Path.cwd():  # anybody can put metadata into a folder that is downloaded
            folders.append(folder)
        record = json.loads(distribution.read_text("direct_url.json") or "{}")
        if record.get("dir_info", {}).get("editable"):
            folders.append(Path(unquote(urlsplit(record["url"]).path)).resolve())
    return tuple(folders)
