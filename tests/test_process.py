# SPDX-License-Identifier: MIT
"""The command line as a process: its memory, its end, and what it imports for one picture."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.make import FOLDER

ROOT = Path(__file__).parent.parent
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
# Blocks of 20 MB as arrays of a tile are: 8 of them freed but the last, as fragments are left in a heap
HOLES = """
import ctypes, sys
from vqcodec import memory
assert not int(sys.argv[1]) or memory.give_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(31 << 20))  # after this glibc maps only blocks that are larger
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
start, blocks = resident(), [libc.malloc(20 << 20) for _ in range(8)]
for block in blocks:
    ctypes.memset(block, 1, 20 << 20)
full = resident() - start
for block in blocks[:-1]:
    libc.free(block)
print(full, resident() - start)
"""

# Blocks of 1 MB in a heap, of which every other one is freed
HEAP = """
import ctypes, sys
from vqcodec import memory
memory.give_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
start, blocks = resident(), [libc.malloc(1 << 20) for _ in range(100)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
full = resident() - start
for block in blocks[::2]:
    libc.free(block)
if int(sys.argv[1]):
    memory.trim()
print(full, resident() - start)
"""


@glibc
def test_freed_blocks_go_back_to_the_system() -> None:
    def run(give_back: int) -> list[int]:
        done = subprocess.run([sys.executable, "-c", HOLES, str(give_back)], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return [int(number) for number in done.stdout.split()]

    full, left = run(1)
    assert full > 140 << 20
    assert left < 24 << 20
    assert run(0)[1] > 120 << 20, "this C library gives them back by itself: the test tests nothing"


@glibc
@pytest.mark.parametrize("trims", [True, False])
def test_holes_go_back_to_the_system(trims: bool) -> None:
    done = subprocess.run([sys.executable, "-c", HEAP, str(int(trims))], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    full, left = map(int, done.stdout.split())
    assert full > 95 << 20
    assert (left < 60 << 20) == trims


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from vqcodec import memory

    for module, name, other in ((ctypes, "CDLL", lambda _name: object()), (sys, "platform", "darwin")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, other)
            memory._glibc.cache_clear()
            assert not memory.give_back()
            memory.trim()
    memory._glibc.cache_clear()


def test_the_end_of_the_process_flushes_and_keeps_the_exit_code(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "vqcodec"]
    done = subprocess.run([*run, "info", str(FOLDER / "one.vqc")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "one.vqc" in done.stdout
    done = subprocess.run([*run, "decompress", str(FOLDER / "one.vqc"), "-"], capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stdout[-8:-4]) == (0, b"IEND")
    done = subprocess.run([*run, "decompress", str(tmp_path / "none.vqc"), "-"], capture_output=True, cwd=ROOT)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1


def test_handlers_run_at_the_end() -> None:
    code = (
        "import atexit, sys; atexit.register(print, 'bye'); sys.argv = ['vqcodec', '--version']\n"
        "from vqcodec.cli.main import program; program()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "bye")


def test_one_picture_needs_no_machinery_for_many() -> None:
    code = (
        "import sys; from vqcodec.cli.main import main\n"
        f"assert main(['decompress', '--threads', '1', {str(FOLDER / 'one.vqc')!r}, '-']) == 0\n"
        "print([name for name in ('multiprocessing', 'concurrent.futures') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=False, cwd=ROOT)
    assert done.returncode == 0
    assert done.stderr.decode().strip() == "[]"
