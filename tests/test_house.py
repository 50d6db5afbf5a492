# SPDX-License-Identifier: MIT
"""The house rules that import-linter does not check: licences, and what importing the package loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vqcodec

ROOT = Path(vqcodec.__file__).parent
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
