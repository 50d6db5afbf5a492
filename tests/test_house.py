# SPDX-License-Identifier: MIT
"""The house rules that import-linter does not check: licences, lengths, and what importing the package loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vqcodec

ROOT = Path(vqcodec.__file__).parent
MODULE_LINES, FUNCTION_LINES = 450, 60
HEAVY = {"torch", "onnxruntime", "constriction", "numpy", "PIL", "ray"}


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import vqcodec", set()),
        ("import vqcodec.cli.main as cli; assert cli.main(['--version']) == 0", set()),
        ("import vqcodec.cli.main as cli; assert cli.main(['info', FILE]) == 0", {"numpy", "PIL"}),
    ],
)
def test_nothing_heavy_is_loaded(code: str, allowed: set[str]) -> None:
    code = code.replace("FILE", repr(str(Path(__file__).parent / "golden" / "one.vqc")))
    code += f"; import sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].strip("[]").replace("'", "").split(", ")) - {""}
    assert loaded <= allowed


def test_files_say_their_licence() -> None:
    tests = Path(__file__).parent
    for path in [*ROOT.rglob("*.py"), *tests.rglob("*.py"), *(tests.parent / "bench").glob("*.py")]:
        assert path.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: MIT\n"), path


def test_modules_and_functions_are_short() -> None:
    """A module has fewer than 450 lines, a function at most 60, its docstring aside."""
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "bench").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < MODULE_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno - 1
                assert node.end_lineno is not None
                assert start is not None
                assert node.end_lineno - start <= FUNCTION_LINES, f"{path}: {node.name}"
