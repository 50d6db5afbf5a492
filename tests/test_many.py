# SPDX-License-Identifier: MIT
"""Many files at once: folders and trees, several processes, errors that do not stop the rest, runs that are resumed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.cli import batch, processes, streams
from vqcodec.cli import main as cli
from vqcodec.cli.names import PICTURE_SUFFIXES, _folders, todo
from vqcodec.cli.processes import Outcome
from vqcodec.errors import InputError

Run = Callable[..., tuple[int, str, list[str]]]
QUALITY = ("-q", "30", "-e", "1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, stdout, lines on stderr."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: NDArray[np.uint8]) -> Path:
    """A current folder with a tree of five small pictures in it, each another one, and what is none."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a.png", "b.png", "one/a.png", "one/deep/c.PNG", "two/d.bmp"]):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[100:140, 60 * number : 60 * number + 50]).save(path)
    (tmp_path / "in/one/readme.txt").write_text("no picture")
    (tmp_path / "in/.hidden").mkdir()
    (tmp_path / "in/.hidden/e.png").write_bytes((tmp_path / "in/a.png").read_bytes())
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    """Every file in a folder and below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected(here: Path, *names: str) -> dict[str, bytes]:
    """What the pictures of the tree become."""
    return {str(Path(name).with_suffix(".vqc")): vqcodec.encode(here / "in" / name, 30, effort=1) for name in names}


TREE = ("a.png", "b.png", "one/a.png", "one/deep/c.PNG", "two/d.bmp")


def environment() -> dict[str, str]:
    root = str(Path(vqcodec.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


# ---- which files -----------------------------------------------------------------------------------------------------


def test_a_folder_alone_or_with_those_below_it(run: Run, here: Path) -> None:
    assert run("compress", *QUALITY, "in", "-o", "flat") == (0, "", [])
    assert files(here / "flat") == expected(here, "a.png", "b.png")
    os.symlink(here, here / "in" / "round")  # a circle, if it were followed
    assert run("compress", *QUALITY, "-r", "in", "-o", "tree") == (0, "", [])
    assert files(here / "tree") == expected(here, *TREE)
    assert run("decompress", "-r", "tree", "-o", "back") == (0, "", [])
    assert sorted(files(here / "back")) == ["a.png", "b.png", "one/a.png", "one/deep/c.png", "two/d.png"]


def test_the_output_may_lie_in_the_input(run: Run, here: Path) -> None:
    for _ in range(2):
        assert run("compress", *QUALITY, "-f", "-r", "in", "-o", "in")[0] == 0
    assert {k: v for k, v in files(here / "in").items() if k.endswith(".vqc")} == expected(here, *TREE)


def test_originals_beside_their_files_are_not_replaced(run: Run, here: Path) -> None:
    """`-f` is for outputs; what lies beside the .vqc under its name is probably what it was made of."""
    assert run("compress", *QUALITY, "in/a.png", "in/b.png", "-o", "in")[0] == 0
    before = files(here / "in")
    code, _, lines = run("decompress", "-f", "in", "-o", "in")
    assert code == 6
    assert "in/a.png lies beside in/a.vqc and may be its original" in lines[0]
    assert files(here / "in") == before
    assert run("decompress", "-f", "in", "-o", "in", "--format", "jpg")[0] == 0  # not there yet
    assert run("decompress", "-f", "in", "-o", "out")[0] == 0
    assert run("decompress", "-f", "in", "-o", "out")[0] == 0  # another folder: its files may be replaced
    assert run("decompress", "-f", "in/a.vqc", "in/a.png")[0] == 0  # named one by one
    assert files(here / "in")["a.png"] != before["a.png"]


@pytest.mark.parametrize("count", [1, 2])
def test_two_inputs_never_become_one_output(run: Run, here: Path, count: int) -> None:
    code, _, lines = run("compress", *QUALITY, "-f", "-j", count, "in", "in/one", "in/one/../a.png", "-o", "out")
    assert code == 6
    assert lines == ["vqcodec: in/one/a.png: left out, because out/a.vqc is written from in/a.png"]
    assert files(here / "out") == expected(here, "a.png", "b.png")


def test_names_that_differ_by_case_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("x/A.png", "out/A.vqc"), ("y/a.png", "out/a.vqc"), ("z/\u00e4.png", "o/\u00e4"), ("a\u0308", "o/a\u0308")]
    assert [len(part) for part in batch._distinct(pairs)] == [4, 0]
    monkeypatch.setattr(sys, "platform", "darwin")
    found, failures = batch._distinct(pairs)
    assert list(found) == [0, 2]
    assert list(failures) == [1, 3]


def test_nothing_to_do(run: Run, here: Path) -> None:
    (here / "empty").mkdir()
    code, _, lines = run("compress", "empty", "-o", "out")
    assert code == 3
    assert "nothing to do in empty" in lines[0]
    assert not (here / "out").exists()
    code, _, lines = run("compress", *QUALITY, "empty", "in", "-o", "out")
    assert code == 3
    assert len(lines) == 1
    assert files(here / "out") == expected(here, "a.png", "b.png")
    failures: list[tuple[int, str]] = []
    assert list(_folders("nowhere", True, failures)) == []
    assert failures == [(3, "cannot read the folder nowhere: no such file or directory")]


def test_options_that_make_no_sense_together(run: Run, here: Path) -> None:
    for arguments in (
        ["compress", "-f", "--skip-existing", "in", "-o", "out"],
        ["compress", "-r", "in/a.png", "a.vqc"],
        ["compress", "-r", "in", "a.vqc"],
        ["decompress", "-j", "-1", "in", "-o", "out"],
    ):
        code, _, lines = run(*arguments)
        assert code == 2, arguments
        assert len(lines) == 1
    assert list(files(here)) == [name for name in files(here) if name.startswith("in/")]


# ---- one after the other, or in several processes --------------------------------------------------------------------


def test_several_processes_write_what_one_writes(run: Run, here: Path) -> None:
    assert run("compress", *QUALITY, "-r", "-j", 2, "in", "-o", "out") == (0, "", [])
    assert files(here / "out") == expected(here, *TREE)
    assert run("decompress", "-r", "-j", "0", "out", "-o", "back") == (0, "", [])
    for name in TREE:
        restored = vqcodec.decode((here / "out" / name).with_suffix(".vqc").read_bytes(), threads=1)
        with Image.open((here / "back" / name).with_suffix(".png")) as back:
            assert np.abs(np.asarray(back).astype(int) - np.asarray(restored)).max() <= 1


@pytest.mark.filterwarnings("ignore::vqcodec.VqcWarning")
@pytest.mark.parametrize("count", [1, 2])
def test_errors_are_listed_at_the_end_in_the_order_of_the_inputs(run: Run, here: Path, count: int) -> None:
    (here / "in/b.png").write_text("this is not a picture")
    Image.fromarray(np.full((20, 20), 30000, np.uint16)).save(here / "in/deep.png")
    (here / "out").mkdir()
    (here / "out/a.vqc").write_bytes(b"old")
    code, out, lines = run("compress", *QUALITY, "-r", "-j", count, "in", "gone.png", "-o", "out")
    assert (code, out) == (6, "")
    assert lines[0] == "vqcodec: note: in/deep.png: 16-bit samples reduced to 8 bits"
    assert [line.split(":")[1].split()[-1] for line in lines[1:]] == ["already", "in/b.png", "gone.png"]
    assert (here / "out/a.vqc").read_bytes() == b"old"
    kept = expected(here, *TREE[2:], "deep.png")
    assert files(here / "out") == {"a.vqc": b"old", **kept}
    code, _, lines = run("decompress", "-j", count, "out", "-o", "back")
    assert code == 4
    assert lines == ["vqcodec: out/a.vqc: this is not a .vqc file"]
    assert sorted(files(here / "back")) == ["deep.png"]


def test_what_is_left_of_several_damaged_files(run: Run, here: Path) -> None:
    assert run("compress", *QUALITY, "in", "-o", "out")[0] == 0
    whole = (here / "out/a.vqc").read_bytes()
    (here / "out/a.vqc").write_bytes(whole[:-8])
    code, _, lines = run("decompress", "--allow-partial", "out", "-o", "back")
    assert code == 8
    assert lines[-1] == "vqcodec: out/a.vqc: damaged; back/a.png shows what is left of it"
    assert sorted(files(here / "back")) == ["a.png", "b.png"]
    (here / "out/b.vqc").write_bytes(b"no picture at all")
    code, _, lines = run("decompress", "--allow-partial", "-f", "out", "-o", "back")
    assert code == 4  # a file that is lost is not hidden behind one that is restored in part
    assert [line.split(":")[1].strip() for line in lines[-2:]] == ["out/a.vqc", "out/b.vqc"]


def test_max_bytes_holds_for_each_of_many_with_metadata(run: Run, here: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a word on the picture, " * 20
    for name in ("a", "b"):
        Image.open(here / f"in/{name}.png").save(here / f"in/{name}.jpg", quality=98, exif=exif)
    code, _, lines = run("compress", "-j", 2, "-e", 7, "--max-bytes", 400, "in/a.jpg", "in/b.jpg", "-o", "out")
    assert code == 0
    written = files(here / "out")
    assert len(written) == len(lines) == 2
    for name, data in written.items():
        assert len(data) <= 400
        (line,) = [line for line in lines if f"in/{name[:-3]}" in line]
        assert f", {len(data):,} bytes, " in line


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_there_can_be_skipped(run: Run, here: Path, count: int) -> None:
    assert run("compress", *QUALITY, "in", "-o", "out")[0] == 0
    (here / "out/a.vqc").write_bytes(b"old")
    before = (here / "out/b.vqc").stat().st_mtime_ns
    assert run("compress", *QUALITY, "-r", "-j", count, "--skip-existing", "in", "-o", "out") == (0, "", [])
    assert files(here / "out") == {**expected(here, *TREE), "a.vqc": b"old"}
    assert (here / "out/b.vqc").stat().st_mtime_ns == before
    assert run("compress", "--skip-existing", "in/a.png", "out/a.vqc") == (0, "", [])
    assert (here / "out/a.vqc").read_bytes() == b"old"


def test_a_model_that_is_not_there_is_said_once(run: Run, here: Path) -> None:
    code, _, lines = run("compress", "--model", "nowhere", "in", "-o", "out")
    assert code == 5
    assert len(lines) == 1


def test_the_model_is_loaded_once(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vqcodec.model import zoo

    loads = []
    real = zoo.Model.__init__

    def spy(self: zoo.Model, *arguments: Any) -> None:
        loads.append(arguments)
        real(self, *arguments)

    zoo._load.cache_clear()
    monkeypatch.setattr(zoo.Model, "__init__", spy)
    assert run("compress", *QUALITY, "-r", "in", "-o", "out")[0] == 0
    assert len(loads) == 1


# ---- for the person at the terminal ----------------------------------------------------------------------------------


def test_a_bar_with_rate_and_time_left(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((20, 20), 30000, np.uint16)).save(here / "in/deep.png")
    (here / "in/b.png").write_text("this is not a picture")
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(streams, "on_terminal", lambda stream: stream is screen)
    assert run("compress", *QUALITY, "-r", "in", "-o", "out")[0] == 3
    text = screen.getvalue()
    for words in ("0/6", "6/6", "megapixels/s", "note: in/deep.png"):
        assert words in text
    *_, error, summary = text.splitlines()
    assert error.startswith("vqcodec: cannot read in/b.png")
    assert summary.startswith("5 files, ")
    assert summary.endswith(", 1 failed")


# ---- processes that die ----------------------------------------------------------------------------------------------


def deadly(source: str, target: str, *, single: bool) -> Outcome:
    """A job that kills its process for one source, and takes its time for the others."""
    if source == "bomb":
        os.kill(os.getpid(), signal.SIGKILL)
    if source == "bug":
        raise RecursionError("deep")
    time.sleep(0.05)
    return Outcome(pixels=1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_process_that_dies_takes_only_its_own_picture_with_it() -> None:
    names = ["a", "b", "bomb", "c", "bug", "d"]
    found = dict(processes.outcomes({number: (name, "") for number, name in enumerate(names)}, deadly, 2))
    assert sorted(found) == list(range(6))
    failures = {names[number]: outcome.failure for number, outcome in found.items() if outcome.failure}
    assert set(failures) == {"bomb", "bug"}
    assert failures["bomb"] == (7, "bomb: the process that worked on it died, probably for want of memory: "
                                   "take fewer --jobs")  # fmt: skip
    assert failures["bug"][0] == 1
    assert sum(outcome.pixels for outcome in found.values()) == 4


def children_of(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


def running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_a_run_that_is_stopped_leaves_whole_files_and_no_process(
    here: Path, photo: NDArray[np.uint8], number: str, code: int
) -> None:
    for name in range(60):
        Image.fromarray(photo[:300, name : name + 300]).save(here / "in" / f"{name:02}.png")
    command = [sys.executable, "-m", "vqcodec", "compress", "-j", "2", "in", "-o", "out"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment())
    deadline = time.monotonic() + 60
    while len(files(here)) < 68 and time.monotonic() < deadline:  # 67 inputs, and an output
        time.sleep(0.05)
    helpers = children_of(child.pid)
    assert len(helpers) >= 2
    child.send_signal(getattr(signal, number))
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    if number != "SIGKILL":
        assert err.decode() == ("vqcodec: interrupted\n" if number == "SIGINT" else "")
    while any(map(running, helpers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, helpers))
    left = files(here / "out")
    assert 1 <= len(left) < 62
    if number != "SIGKILL":
        assert [name for name in left if not name.endswith(".vqc")] == []
    for name, data in left.items():
        if name.endswith(".vqc"):
            vqcodec.info(data)


def test_input_errors_of_the_whole_are_raised(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="nothing to do"):
        todo((str(tmp_path / "in"),), str(tmp_path / "out"), ".vqc", PICTURE_SUFFIXES, recursive=True)
