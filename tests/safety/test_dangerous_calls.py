"""What the source never does: run text, start a shell, load what can run code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for room in ("framework", "trainers", "plans") for path in sorted((ROOT / room).rglob("*.py"))]

NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnl", "pty.spawn",
    "breakpoint",
    "input", "marshal.loads", "marshal.load", "shelve.open", "dill.loads", "joblib.load", "yaml.load",
    "yaml.unsafe_load",
    "pandas.read_pickle", "pd.read_pickle", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter",
    "np.fromfile", "shutil.unpack_archive", "tarfile.open", "blosc2.load", "blosc2.open_lazyarray", "tempfile.mktemp",
}  # fmt: skip
"""Calls that no file makes."""

ONLY_IN = {
    "subprocess.run": set(),
    "subprocess.Popen": set(),
    "importlib.import_module": {
        "framework/extensions.py",  # what `framework.named_code` lets pass
        "framework/networks/build.py",  # the same
        "framework/preprocessing/parallel.py",  # modules of ours, by name, in worker processes
    },
    "importlib.util.spec_from_file_location": {"framework/extensions.py"},
    "pickle.loads": {"framework/batch_loader.py"},  # of what the same line has pickled
    "pickle.Unpickler": set(),
    "torch.load": {"framework/checkpoint.py"},
    "blosc2.open": {"framework/data/blosc_format.py"},  # behind a look at what it holds
}
"""Calls that are made where it is known what they are given."""

HIDING = ("os", "subprocess", "pickle", "marshal", "importlib")
HIDDEN = {"system", "popen", "run", "Popen", "loads", "load", "Unpickler", "import_module"}
NEEDED_ARGUMENTS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_makes_a_dangerous_call(path: Path):
    name = path.relative_to(ROOT).as_posix()
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in HIDING:
            # ``from os import system`` would hide what is called.
            assert not HIDDEN & {alias.name for alias in node.names}, f"{name}:{node.lineno}"
    for call in [node for node in nodes if isinstance(node, ast.Call)]:
        called = ast.unparse(call.func)
        place = f"{name}:{call.lineno} calls {called}"
        assert called not in NEVER, place
        assert called.rpartition(".")[2] not in ("extractall", "unsafe_load"), place
        assert called not in ONLY_IN or name in ONLY_IN[called], place
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        assert given.get("shell") is not True, place
        if called in NEEDED_ARGUMENTS:
            argument, value = NEEDED_ARGUMENTS[called]
            assert given.get(argument) is value, f"{place} without {argument}={value}"
