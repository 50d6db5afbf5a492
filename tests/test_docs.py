# SPDX-License-Identifier: MIT
"""What the documentation says is so: examples run, commands work, links lead somewhere, the pages build."""

from __future__ import annotations

import csv
import doctest
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.cli import gallery, ray_archive
from vqcodec.cli import main as cli

ROOT = Path(vqcodec.__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
if not (ROOT / "docs").is_dir():
    pytest.skip("the documentation is not here", allow_module_level=True)

# What stands behind these is tested elsewhere, or is not this machine's to run.
ELSEWHERE = re.compile(r"^(pip|python -m|python docs/|torchrun|mkdocs|bash|curl)\b|s3://")
PAST = ("CHANGELOG.md", "experiments.md", "results.md")  # which name commands of earlier versions, as decisions do
TINY = (
    "--set steps=2 --set batch=2 --set crop=64 --threads 1 --device cpu --base-minutes 0.01 --base-crops 20 "
    "--samples 20"
)
TINY_MODEL = [
    "latents=24", "chunks=4,8,12", "analysis_width8=16", "analysis_width16=16", "analysis_blocks8=1",
    "analysis_blocks16=1", "synthesis_width8=16", "synthesis_width16=16", "synthesis_blocks8=1", "synthesis_blocks16=1",
    "prior_width=16", "prior_base_blocks=1", "codebook_size=64", "codebook_dim=8", "base_prior_width=16", "anchors=4",
]  # fmt: skip


# ---- examples in docstrings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(vqcodec.__all__))
def test_every_public_name_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = getattr(vqcodec, name)
    assert found.__doc__, name
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=options)
    tests = [t for t in doctest.DocTestFinder(recurse=False).find(found, name) if t.examples]
    assert tests, f"{name} has no example"
    for test in tests:
        runner.run(test)
    assert runner.failures == 0


# ---- commands --------------------------------------------------------------------------------------------------------


def blocks(path: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(text: str) -> list[str]:
    """The commands of a block, without remarks and prompts."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.sub(r"\s+#.*$", "", line).strip().removeprefix("$ ") for line in lines]
    return [line for line in found if re.match(r"(vqcodec|pip|python|torchrun|mkdocs|bash|curl)\b", line)]


def everything_said() -> Iterator[tuple[str, list[str]]]:
    """Every block of commands in the documentation and in the help."""
    for path in PAGES:
        for number, text in enumerate(blocks(path, "")):
            if found := commands(text):
                yield f"{path.relative_to(ROOT).as_posix()}-{number}", found
    for name in cli.commands.list_commands(click.Context(cli.commands)):
        command = cli.commands.get_command(click.Context(cli.commands), name)
        assert command is not None
        text = command.help or ""
        if name in ("denoise", "repair"):  # no model that ships has a denoiser: tests/train/test_denoising.py runs them
            continue
        if name == "train":
            from vqcodec.train.arguments import parser

            text = parser().format_help()
        if found := commands(text.replace("\b", "")):
            yield f"help-{name}", found


SAID = list(everything_said())
done_already: set[str] = set()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, photo: NDArray[np.uint8]) -> Path:
    """A folder with all that the examples take for granted."""
    folder = tmp_path_factory.mktemp("template")
    for number, name in enumerate(
        ["photo.png", "photo.jpg", "more.png", "holiday/1.jpg", "holiday/day/2.png", "pictures/1.png", "photos/1.png",
         "photos/2.png", "photos/3.png"]
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[20 * number : 20 * number + 130, :140]).save(path)
    for number in range(3):
        path = folder / f"digits/{('train', 'judged')[number // 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[20 * number : 20 * number + 28, :28, 0]).save(path)
    shutil.copytree(ROOT / "docs" / "recipes", folder / "docs" / "recipes")
    assert cli.main(["tokens", str(folder / "photos"), "-q", "1", "-o", str(folder / "tokens.npz")]) == 0
    data = vqcodec.encode(folder / "photo.png", 30, effort=1)
    for name in ("photo.vqc", "archive/1.vqc", "archive/day/2.vqc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "broken.vqc").write_bytes(data[:-20])
    runtime = folder / "node_modules" / "onnxruntime-web" / "dist"
    runtime.mkdir(parents=True)
    for name in gallery.RUNTIME_FILES:
        (runtime / name).touch()
    return folder


@pytest.fixture(scope="module")
def toy(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model of a toy's size, to train on from in place of the shipped one (tests/train/test_shipped.py)."""
    out = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(template)
        assert cli.main([*tiny(["train", "photos", "-o", str(out)])]) == 0
    return out / "model"


def without_its_output(arguments: list[str], here: Path) -> None:
    """Moves out of the way what a command is going to write, which another example has written or will read."""
    names = ["photo-compare.html"]
    if arguments[0] in ("compress", "decompress") and len(arguments) == 2:  # beside the input
        suffix = {"compress": ".vqc", "decompress": ".png"}[arguments[0]]
        names.append(str(Path(arguments[1]).with_suffix(suffix)))
    elif arguments[0] in ("compress", "decompress") and not {"-o", "-"} & set(arguments):
        names.append(arguments[-1] if not arguments[-2].startswith("--") else arguments[-3])
    if "-o" in arguments and arguments[0] != "train":
        names.append(arguments[arguments.index("-o") + 1])
    for name in names:
        path = inside(name, here)
        if path.exists():
            path.rename(Path(tempfile.mkdtemp(dir=here.parent)) / "old")


def inside(name: str, here: Path) -> Path:
    """The place of a name, which must lie in the example's own folder: nothing else is touched."""
    path = (here / name).resolve()
    assert path.is_relative_to(here.resolve()), f"{name}: an example must not write to other folders"
    assert path != here.resolve(), name
    return path


def tiny(arguments: list[str]) -> list[str]:
    """The same training command with settings of a toy."""
    kept = shlex.split(re.sub(r"--set minutes=\S+", "", shlex.join(arguments)))
    if "--config" in kept:  # a recipe for small pictures
        return [*kept, *shlex.split(TINY.replace("crop=64", "crop=32"))]
    model = [] if "--resume" in kept else [word for setting in TINY_MODEL for word in ("--set-model", setting)]
    return [*kept, *shlex.split(TINY), *model]


@pytest.mark.parametrize(("place", "found"), SAID, ids=[place for place, _ in SAID])
def test_every_command_works(
    place: str, found: list[str], template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    here = tmp_path / "here"
    shutil.copytree(template, here)
    monkeypatch.chdir(here)
    monkeypatch.setattr("vqcodec.cli.demo.PHOTOGRAPH", here / "photo.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/fish/completions").mkdir(parents=True)
    (tmp_path / "vqcodec").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vqcodec "$@"\n')
    (tmp_path / "vqcodec").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran: list[str] = []
    for line in found:
        line = line.removeprefix("pip install . && ")
        if ELSEWHERE.search(line):
            continue
        assert line.startswith("vqcodec "), line
        arguments = shlex.split(line)[1:]
        if arguments[0] == "archive":
            monkeypatch.setattr("vqcodec.cli.ray_archive.run", lambda *_, **__: ray_archive.Report())
        if arguments[0] == "view":
            monkeypatch.setattr("vqcodec.cli.view.serve", lambda *_, **__: None)
        if arguments[0] == "train":
            pytest.importorskip("torch")
            from tests.train.conftest import quicken

            quicken(monkeypatch)
            arguments = tiny(arguments)
            if "photo-1" in arguments:
                shutil.copytree(request.getfixturevalue("toy"), here / "toy")
                arguments[arguments.index("photo-1")] = "toy"
        if line in done_already and arguments[0] not in ("train", "tokens") and "--model" not in arguments:
            ran.append(line)  # it stands in another place, too
            continue
        done_already.add(line)
        for word in arguments:
            if not word.startswith("-"):
                assert not Path(word).is_absolute(), f"{line}: no absolute paths in examples"
        without_its_output(arguments, here)
        if set(line) & set("|<>"):
            if any(shutil.which(word.split()[0]) is None for word in line.split("|")):
                continue
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, (line, done.stderr)
        else:
            partial = vqcodec.PartialError.exit_code if "--allow-partial" in arguments else 0
            assert cli.main(arguments) == partial, (line, capfd.readouterr().err)
        ran.append(line)
    assert ran or any(ELSEWHERE.search(line) for line in found)


def test_the_commands_were_found() -> None:
    said = [line for _, found in SAID for line in found]
    assert len(said) > 40
    for start in (
        "vqcodec compress",
        "vqcodec train",
        "vqcodec archive",
        "pip install",
        "vqcodec compare",
        "python -m",
    ):
        assert any(line.startswith(start) for line in said), start


def others_commands() -> list[tuple[str, str]]:
    """Commands in the documentation that are not run, and those in the middle of a sentence: (page, command)."""
    found = [(place, line) for place, lines in SAID for line in lines if ELSEWHERE.search(line)]
    for path in PAGES:
        if path.name not in PAST and path.parent.name != "decisions":
            prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
            inline = re.findall(r"`((?:vqcodec|pip|python -m|torchrun|mkdocs|bash) [^`]*)`", prose)
            found += [(path.relative_to(ROOT).as_posix(), " ".join(line.split())) for line in inline]
    return [(place, line) for place, line in dict.fromkeys(found) if not re.search("decisions/|experiments", place)]


def parses(command: click.Command, arguments: list[str]) -> None:
    """Whether a command of click's knows these options; what it is to work on may be missing."""
    try:
        with command.make_context(command.name, list(arguments)) as context:
            if isinstance(command, click.Group):
                name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
                assert inner is not None, name
                parses(inner, rest)
    except (click.MissingParameter, click.exceptions.Exit):  # Exit: --help
        pass
    except IndexError:  # a group without a command
        assert isinstance(command, click.Group)


def fits_this_program(line: str) -> bool:
    """Whether a command that is not run here names modules, files and options that there are."""
    words = shlex.split(line.split("|")[-1].split(">")[0]) if line.startswith("curl") else shlex.split(line)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    match words:
        case ["vqcodec", "COMMAND", *_]:
            return True
        case ["vqcodec", *arguments]:
            parses(cli.commands, arguments)
            return True
        case ["pip", "install", *rest]:
            return all((ROOT / rest[i + 1]).is_file() for i, word in enumerate(rest) if word == "-c")
        case ["bash" | "python", script, *_] if not script.startswith("-"):
            return (ROOT / script).is_file()
        case ["mkdocs", *_]:
            return (ROOT / "mkdocs.yml").is_file()
        case ["python", "-m", "bench", *arguments]:
            from bench.__main__ import main

            parses(main, arguments)
            return True
        case ["python", "-m", "vqcodec.train", *arguments]:
            from vqcodec.train.arguments import parse

            parse(arguments)
            return True
        case ["python", "-m", "pytest", *rest]:
            return all((ROOT / word).exists() for word in rest if not word.startswith("-"))
        case ["python", "-m", ("build" | "twine"), *_]:
            return True  # of the extra `check`
        case ["python", "-m", module, *_]:
            return importlib.util.find_spec(module) is not None
    return "s3://" in line


def test_commands_that_are_not_run_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their options are known, their files and modules exist."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(click.Path, "convert", lambda self, value, *_: Path(value))  # pictures need not be there
    found = others_commands()
    assert len(found) > 40
    for place, line in found:
        try:
            fits = fits_this_program(line)
        except (click.ClickException, vqcodec.VqcError) as error:
            pytest.fail(f"{place}: {line}: {error}")
        assert fits, (place, line)
    for wrong in ("python -m bench --imags x", "python -m bench sped", "vqcodec demo --quik", "vqcodec squeeze"):
        with pytest.raises(click.UsageError):
            fits_this_program(wrong)
    with pytest.raises(vqcodec.UsageError):
        fits_this_program("torchrun --nproc-per-node 2 -m vqcodec.train a -o b --fase finish")
    for wrong in ("bash scripts/none", "python -m vqcodec.none", "pip install -c none.txt .", "make all"):
        assert not fits_this_program(wrong)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in PAGES if blocks(path, "python")])
def test_the_python_in_the_documentation_runs(
    page: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(template, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    names: dict[str, Any] = {}
    for text in blocks(ROOT / page, "python"):  # one after the other, as they are read
        if "torch" in text:
            pytest.importorskip("torch")
            pytest.importorskip("onnx")
        exec(compile(re.sub(r"^steps = \d+$", "steps = 2", text, flags=re.MULTILINE), page, "exec"), names)


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for path in [*PAGES, *(ROOT / "vqcodec").rglob("*.py")]:
        for names in re.findall(r"(?:vqcodec|'\.)\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= set(extras), (path, names)


# ---- pages -----------------------------------------------------------------------------------------------------------


def test_readme_is_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_links_between_files_lead_somewhere() -> None:
    cards = [path for path in (ROOT / "vqcodec").rglob("*.md") if "node_modules" not in path.parts]
    for path in [*PAGES, *cards]:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not link.startswith(("http:", "https:")):
                assert (path.parent / link).exists(), (path.name, link)


def test_every_model_has_its_card() -> None:
    from vqcodec.model import zoo

    for name in zoo.MODELS:
        card = (zoo.WEIGHTS / zoo.MODELS[name] / "CARD.md").read_text(encoding="utf-8")
        assert card.startswith(f"# {name}")
        for heading in ("## Trained on", "## Limits", "## Measured", "## Licence"):
            assert heading in card


def test_every_training_picture_is_listed() -> None:
    """As many pictures and repositories as the card says, each with a source and a licence."""
    from vqcodec.model import zoo

    with (ROOT / "docs/training-pictures.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(set(row) == {"picture", "source", "licence"} and all(row.values()) for row in rows)
    assert len({row["picture"] for row in rows}) == len(rows)
    repositories = {"/".join(row["source"].split("/")[:2]) for row in rows}
    card = (zoo.find("photo-1").folder / "CARD.md").read_text(encoding="utf-8")
    said = re.search(r"^([\d,]+) pictures, .* from (\d+) public repositories", card, re.MULTILINE)
    assert said is not None
    assert (len(rows), len(repositories)) == (int(said[1].replace(",", "")), int(said[2]))
    listed = re.findall(r"^\| (\d+) \|", card, re.MULTILINE)
    assert sum(int(count) for count in listed) == len(rows)


def test_info_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vqcodec.model import zoo

    files = zoo.find()
    assert cli.main(["info", "--model", zoo.DEFAULT_MODEL]) == 0
    out = capsys.readouterr().out
    assert files.checksum.hex() in out
    assert out.endswith((files.folder / "CARD.md").read_text(encoding="utf-8").rstrip() + "\n")
    assert cli.main(["info", "--model", zoo.DEFAULT_MODEL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checksum"] == files.checksum.hex()
    copy = tmp_path / "copy"
    shutil.copytree(files.folder, copy)
    (copy / "CARD.md").unlink()
    assert cli.main(["info", "--model", str(copy)]) == 0
    with (copy / "synthesis.onnx").open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"broken")
    for form in ([], ["--json"]):
        assert cli.main(["info", "--model", str(copy), *form]) == 5
    assert cli.main(["info", "--model", "nowhere"]) == 5


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
    for name in vqcodec.__all__:
        assert f'id="vqcodec.{name}"' in api, name
