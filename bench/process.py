# SPDX-License-Identifier: MIT
"""One picture in a process of its own, and the small process that watches it. Run as a program, never imported by it.

    python bench/process.py watch SECONDS COMMAND...              runs it; prints times and peak memory as JSON
    python -m bench.process encode|decode PEER SETTING IN OUT N   one codec, file to file, with N threads

The watcher must stay small and load nothing: Linux counts the memory of the process that started a child as the
child's own peak, so a benchmark that holds pictures would report its own size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time


def watch(seconds: float, command: list[str]) -> dict[str, object]:
    """Run a command to its end, or kill it after `seconds`.

    Returns:
        seconds (wall time), user_seconds (of processor time) and peak_bytes (resident), both None where the system does
        not tell, code, stderr (its last lines).
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        peak: int | None = None
        user: float | None = None
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            process.returncode = code
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            user = usage.ru_utime
        else:
            code = process.wait()
        wall = time.perf_counter() - start
        timer.cancel()
        errors.seek(0)
        message = errors.read()[-2000:].decode(errors="replace")
    return {"seconds": wall, "user_seconds": user, "peak_bytes": peak, "code": code, "stderr": message}


def code_file(direction: str, name: str, setting: int, source: str, target: str, threads: int) -> None:
    """Encode or decode one file with one peer."""
    from pathlib import Path

    from PIL import Image

    from bench.peers import PEERS

    Image.MAX_IMAGE_PIXELS = None
    peer = PEERS[name]
    if direction == "encode":
        with Image.open(source) as image:
            Path(target).write_bytes(peer.encode(image.convert("RGB"), setting, threads))
    else:
        peer.decode(Path(source).read_bytes(), threads).save(target)


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        print(json.dumps(watch(float(sys.argv[2]), sys.argv[3:])))
    else:
        direction, name, setting, source, target, threads = sys.argv[1:]
        code_file(direction, name, int(setting), source, target, int(threads))
