# SPDX-License-Identifier: MIT
"""The wheel, as a user gets it: what it holds, how large it is, what it says of itself, whether its types arrive."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.version import Version

import vqcodec

ROOT = Path(vqcodec.__file__).parents[1]
if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("the sources are not here", allow_module_level=True)
pytest.importorskip("setuptools", minversion="77", reason="the wheel needs a setuptools that knows SPDX licences")

MAX_WHEEL_BYTES = 20_000_000
OTHERS = ("__pycache__", "node_modules")  # folders that tools make
PROGRAM = """\
from PIL import Image
import vqcodec
data: bytes = vqcodec.encode("photo.png", quality=75)
picture: Image.Image = vqcodec.decode(data)
picture.resize(vqcodec.indices(data).base.shape).save(str(vqcodec.info(data)["width"]) + ".png")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources without network."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "vqcodec", folder / "vqcodec", ignore=shutil.ignore_patterns(*OTHERS))
    code = "from setuptools import build_meta; build_meta.build_wheel('out')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = (folder / "out").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The interpreter of an environment that has the wheel and, from this one, what the wheel depends on."""
    folder = wheel.parents[1] / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def test_the_wheel_is_small_and_complete(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vqcodec").rglob("*") if path.is_file()}
    assert names == {name for name in sources if not set(OTHERS) & set(name.split("/"))}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(archive.read(name).decode())
        assert name.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert said["Version"] == vqcodec.__version__
    assert said["License-Expression"] == "MIT"
    assert said["Author"] == "vqcodec contributors"
    assert "Typing :: Typed" in said.get_all("Classifier", [])
    assert said["Description-Content-Type"] == "text/markdown"
    base = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith("torch") for line in base)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"], "the version stands in vqcodec/__init__.py alone"


def test_the_browsers_package_has_the_same_version() -> None:
    """npm writes 0.2.0.dev0 as 0.2.0-dev.0; packaging reads both."""
    said = json.loads((ROOT / "vqcodec" / "web" / "package.json").read_text(encoding="utf-8"))["version"]
    assert Version(said) == Version(vqcodec.__version__)


def check(program: str, installed: Path) -> subprocess.CompletedProcess[str]:
    """mypy --strict over a user's program, in a folder of its own."""
    folder = installed.parents[2] / "program"
    folder.mkdir(exist_ok=True)
    (folder / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    command += ["--python-executable", str(installed), "program.py"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_program_that_uses_the_wheel_is_checked_with_its_types(installed: Path) -> None:
    pytest.importorskip("mypy")
    done = check(PROGRAM, installed)
    assert done.returncode == 0, done.stdout
    wrong = check(PROGRAM.replace("quality=75", "quality='high'"), installed)
    assert wrong.returncode == 1
    assert '"encode" has incompatible type "str"' in wrong.stdout


def test_a_release_has_absolute_links(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "vqcodec/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, str(ROOT / "scripts/address.py")]
    assert subprocess.run([*command, "here"], cwd=tmp_path, capture_output=True).returncode == 1
    url = "https://example.org/owner/name"
    subprocess.run([*command, url + "/"], cwd=tmp_path, check=True)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", text)
    tag = f"v{vqcodec.__version__}"
    assert len(links) > 10
    for picture, link in links:
        kind, _, path = link.removeprefix(f"{url}/").partition(f"/{tag}/")
        assert kind == ("raw" if picture else "blob"), link
        assert (ROOT / path).exists(), link
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert urls["Repository"] == url
    assert (ROOT / urls["Changelog"].removeprefix(f"{url}/blob/{tag}/")).is_file()
