# SPDX-License-Identifier: MIT
"""The house rules that a machine can check: imports point one way, every file has its licence, nothing loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import vqcodec

ROOT = Path(vqcodec.__file__).parent
ORDER = [
    "errors", "threads", "output", "streams", "metadata", "picture", "png", "formats", "image", "tiles", "container",
    "codebook", "prior", "entropy", "colour", "grain", "transform", "refine", "zoo", "restore", "codec", "tokens",
    "rate", "api", "describe", "demo", "compare", "workers", "jobs", "token_files", "archive", "pillow_plugin", "cli",
    "__main__",
]  # fmt: skip
TRAIN = [
    "config", "losses", "optimiser", "quantise", "lattice", "vectors", "base", "data", "networks", "texture", "budget",
    "progress", "loop", "graph", "refinement", "export", "finish", "files", "perception", "discriminator", "realistic",
    "attach", "regroup", "cli", "variants", "bakeoff", "__main__",
]  # fmt: skip


def imported(path: Path) -> set[str]:
    """Dotted names of the package's own modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            if node.module in ("vqcodec", "vqcodec.train"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return names


def test_every_module_has_a_place() -> None:
    found = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert found <= set(ORDER)
    assert {path.stem for path in (ROOT / "train").glob("*.py")} - {"__init__"} <= set(TRAIN)


def test_imports_point_up() -> None:
    for place, name in enumerate(ORDER):
        path = ROOT / f"{name}.py"
        if not path.exists():
            continue
        below = {f"vqcodec.{other}" for other in ORDER[place:]}
        assert not imported(path) & below, f"{name}.py imports from below"


def test_train_imports_point_up_and_nothing_imports_torch_outside() -> None:
    for place, name in enumerate(TRAIN):
        below = {f"vqcodec.train.{other}" for other in TRAIN[place:]} | {"vqcodec.cli", "vqcodec.demo"}
        assert not imported(ROOT / "train" / f"{name}.py") & below, f"train/{name}.py imports from below"
    for path in ROOT.glob("*.py"):
        assert not any(name.split(".")[0] == "torch" for name in imported(path)), path


def test_constriction_is_imported_in_one_place() -> None:
    users = [p.name for p in ROOT.rglob("*.py") if any(n.split(".")[0] == "constriction" for n in imported(p))]
    assert users == ["entropy.py"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, vqcodec; print(sorted({'torch', 'onnxruntime', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_say_their_licence() -> None:
    for path in [*ROOT.rglob("*.py"), *Path(__file__).parent.glob("*.py")]:
        assert path.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: MIT\n"), path
