"""The rooms of the house: which module may import which, and that no imports run in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("framework", "trainers", "plans")
    for path in (ROOT / package).rglob("*.py")
}
BOTTOM = {
    "framework.errors", "framework.files", "framework.randomness", "framework.roots", "framework.validation",
    "framework.training_settings", "framework.legacy_plans", "framework.plans", "framework.run_folder",
    "framework.schedules", "framework.allocator", "framework.experiment", "framework.plans_schema",
    "framework.extensions", "framework.resumed_overrides", "framework.processors",
    "framework.field_path", "framework.stop_signal", "framework.worker_extensions", "framework.distributed",
    "framework.pulse", "framework.named_code", "framework.file_names",
}  # fmt: skip
LOOP = {
    "framework.base_trainer", "framework.hook", "framework.parameter_update", "framework.checkpoint",
    "framework.history", "framework.progress", "framework.loss_weights", "framework.trainer_state",
    "framework.batch_loader", "framework.device", "framework.device_batches", "framework.optimizers",
    "framework.checkpoint_writer", "framework.checkpoint_content", "framework.state_form",
    "framework.run_identity", "framework.durations", "framework.lockstep", "framework.batch_shares",
    "framework.rank_outputs", "framework.launcher",
}  # fmt: skip
PARTS = (
    "data",
    "augmentation",
    "networks",
    "losses",
    "inference",
    "evaluation",
    "preprocessing",
    "checking",
    "selection",
    "sharing",
)
ALLOWED = {
    "losses": set(),
    "networks": set(),
    "augmentation": set(),
    "data": {"augmentation"},
    "preprocessing": {"data"},
    "inference": {"data", "preprocessing", "networks"},
    "evaluation": {"data", "augmentation"},
    "checking": {"data", "preprocessing", "evaluation"},
    "selection": {"data", "evaluation", "inference"},
    "sharing": {"data"},
}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Our modules that a file imports; those for type checkers do not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if top_level_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names = {f"{child.module}.{alias.name}" for alias in child.names}
                found.update(name if name in MODULES else child.module for name in names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name in MODULES}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in (*PARTS, "hooks", "commands") else module


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("framework")])
def test_framework_never_imports_trainers(module: str):
    assert not {name for name in imports(MODULES[module]) if name.startswith("trainers")}


@pytest.mark.parametrize("module", sorted(LOOP | BOTTOM))
def test_the_loop_knows_no_part(module: str):
    assert not {name for name in imports(MODULES[module]) if room(name) in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_only_what_lies_below_them(part: str):
    for name, path in MODULES.items():
        if room(name) != part:
            continue
        for imported in imports(path):
            if not imported.startswith("framework.") or room(imported) == part:
                continue
            allowed = imported in BOTTOM or imported == "framework.checkpoint" or room(imported) in ALLOWED[part]
            # The predictor finds trainers by name and rebuilds a run from its record.
            if part == "inference" and imported in ("framework.extensions", "framework.device"):
                allowed = True
            assert allowed, f"{name} imports {imported}"


def test_no_imports_run_in_a_circle():
    graph = {name: imports(path, top_level_only=True) for name, path in MODULES.items()}
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> None:
        state[name] = 1
        for imported in graph[name]:
            assert state.get(imported) != 1, " -> ".join([*trail, name, imported])
            if imported not in state:
                visit(imported, [*trail, name])
        state[name] = 2

    for name in graph:
        if name not in state:
            visit(name, [])


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "plan",
        "preprocess",
        "predict",
        "check",
        "convert",
        "preview",
        "evaluate",
        "select",
        "ensemble",
        "postprocess",
        "export",
        "import_model",
    ],
)
def test_help_imports_nothing_heavy(command: str):
    code = (
        f"import sys; from framework.commands.{command} import build_parser; build_parser().format_help(); "
        "heavy = {'torch', 'numpy', 'scipy', 'SimpleITK', 'blosc2', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < 60  # a hang is a failure; how fast it is stands in docs/results.md
