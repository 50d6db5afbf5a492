# SPDX-License-Identifier: MIT
"""Codecs at low and equal rates: distortion of each picture, and how real all of them together look. No tables here.

run.json                what was measured, with what
files/CODEC-BPP/        every picture's file at that rate; decoders that share a format share them
realism.jsonl           a line per picture, codec and rate: bytes and distortion
realism-sets.jsonl      a line per codec and rate: SWD, C2ST and what else compares sets of pictures

Each line is on disk as soon as it is measured; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from bench import c2st, swd
from bench.codecs import EXCESS, Peer
from bench.errors import BenchError, MissingError
from bench.metrics import METRICS, Rgb, complete
from bench.pictures import PictureSet
from bench.progress import Progress
from bench.store import RUN, Run, append, read_lines, replace

PICTURES, SETS, FILES = "realism.jsonl", "realism-sets.jsonl", "files"
ORIGINALS = "originals"  # the name under which the floor stands
Line = dict[str, Any]
FORMAT = 1
Key = tuple[str, str, float]  # picture, codec, bits per pixel wanted; of a set's line the picture is ""
Measures = Mapping[str, Callable[[Sequence[Rgb], Sequence[Rgb]], float]]  # of sets, beside SWD and C2ST


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    pictures: PictureSet
    peers: tuple[Peer, ...]
    targets_bpp: tuple[float, ...]
    metrics: tuple[str, ...]
    others: Measures = field(default_factory=dict)


class Results:
    """The results folder. `lines` holds both kinds of lines."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run
        self.lines: dict[Key, Line] = {}

    @classmethod
    def read(cls, folder: Path) -> Results:
        """A folder that a run left.

        Raises:
            BenchError: there is none, or it is malformed.
        """
        try:
            run = json.loads((folder / RUN).read_text(encoding="utf-8"))
            if run["format"] != FORMAT or "targets_bpp" not in run:
                raise BenchError(f"{folder} holds no results of python -m bench realism")
            found = cls(folder, run)
            for line in [*read_lines(folder / PICTURES), *read_lines(folder / SETS)]:
                found.lines[line.get("picture", ""), line["codec"], line["target_bpp"]] = line
        except OSError as error:
            raise BenchError(
                f"{folder} holds no results ({error.strerror}): run python -m bench realism --out {folder}"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"the results in {folder} are malformed ({error!r}); give another --out") from None
        return found

    @classmethod
    def start(cls, folder: Path, run: Run) -> tuple[Results, list[str]]:
        """Open a folder for a run; what it holds of codecs that have not changed is kept.

        Returns:
            the results, and a sentence for each codec that is measured again.

        Raises:
            BenchError: the folder holds results of other pictures, or of something else.
        """
        folder.mkdir(parents=True, exist_ok=True)
        results, changed = cls(folder, run), set()
        if (folder / RUN).exists():
            old = cls.read(folder)
            if old.run["pictures"] != run["pictures"]:
                raise BenchError(f"{folder} holds results of other pictures; give another --out")
            changed = {name for name, peer in run["peers"].items() if old.run["peers"].get(name, peer) != peer}
            for name in changed:
                for stale in (folder / FILES).glob(f"{run['peers'][name]['writer']}-*"):
                    shutil.rmtree(stale)
            results._adopt(old, changed)
        results._write()
        return results, [f"{name} has changed since; it is measured again" for name in sorted(changed)]

    def _adopt(self, old: Results, changed: set[str]) -> None:
        kept = {key: line for key, line in old.lines.items() if "error" not in line and key[1] not in changed}
        self.lines = kept
        self.run["commands"] = list(dict.fromkeys([*old.run["commands"], *self.run["commands"]]))
        mine, theirs = cast(Line, self.run), cast(Line, old.run)
        for name in ("peers", "metrics", "missing"):
            mine[name] = {**theirs[name], **mine[name]}
        mine["missing"] = {name: why for name, why in mine["missing"].items() if name not in mine["peers"]}
        mine["targets_bpp"] = sorted({*theirs["targets_bpp"], *mine["targets_bpp"]})

    def _write(self) -> None:
        replace(self.folder / RUN, json.dumps(self.run, indent=1, ensure_ascii=False) + "\n")
        for name, of_pictures in ((PICTURES, True), (SETS, False)):
            lines = [line for key, line in self.lines.items() if bool(key[0]) == of_pictures]
            replace(self.folder / name, "".join(_text(line) for line in lines))

    def add(self, line: Line) -> None:
        """Append one line; it is on disk when this returns."""
        self.lines[line.get("picture", ""), line["codec"], line["target_bpp"]] = line
        append(self.folder / (PICTURES if "picture" in line else SETS), _text(line))

    def file(self, writer: str, target_bpp: float, picture: str) -> Path:
        """Where a picture's file is kept."""
        return self.folder / FILES / f"{writer}-{target_bpp:g}" / f"{picture}.bin"

    @property
    def targets_bpp(self) -> list[float]:
        """All rates that were measured."""
        return [float(value) for value in cast(Line, self.run)["targets_bpp"]]

    def of_codec(self, codec: str, target_bpp: float) -> list[Line]:
        """The pictures' lines of a codec at a rate."""
        return [line for key, line in self.lines.items() if key[0] and key[1:] == (codec, target_bpp)]


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def coded(results: Results, peer: Peer, rgb: Rgb, target_bpp: float, picture: str) -> bytes:
    """A picture's file at a rate: from the folder, or made now and kept there."""
    path = results.file(peer.writer, target_bpp, picture)
    if path.exists():
        return path.read_bytes()
    data = peer.reach(Image.fromarray(rgb), target_bpp)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data)
    temporary.replace(path)
    return data


def _picture(plan: Plan, results: Results, peer: Peer, rgb: Rgb, target_bpp: float, picture: str) -> tuple[Line, Rgb]:
    """One picture's line, without distortion, and what the codec makes of it."""
    data = coded(results, peer, rgb, target_bpp, picture)
    restored = np.asarray(peer.decode(data))
    if restored.shape != rgb.shape:
        raise ValueError(f"came back as {restored.shape}, was {rgb.shape}")
    bpp = 8 * len(data) / (rgb.shape[0] * rgb.shape[1])
    line: Line = {"picture": picture, "codec": peer.name, "target_bpp": target_bpp, "bytes": len(data)}
    line["missed"] = bpp > target_bpp * (1 + EXCESS)
    return line, restored


def _distortion(line: Line, rgb: Rgb, restored: Rgb, metrics: Sequence[str]) -> Line:
    """The line with its metrics."""
    for name in metrics:
        value = METRICS[name].of(rgb, restored)
        if value is not None:
            line[name] = round(value, 5)
    return line


def _pictures(plan: Plan, results: Results, originals: Mapping[str, Rgb], peer: Peer, target_bpp: float) -> list[Rgb]:
    """All pictures through one codec at one rate, and their lines to the results; none where one of them failed."""
    restored: list[Rgb] = []
    waiting: list[tuple[Line, Rgb, Rgb]] = []
    for picture, rgb in originals.items():
        key = (picture, peer.name, target_bpp)
        try:
            line, back = _picture(plan, results, peer, rgb, target_bpp, picture)
        except Exception as error:  # a codec's failure is a result: it stands in the table
            why = f"{type(error).__name__}: {error}"[:300]
            results.add({"picture": picture, "codec": peer.name, "target_bpp": target_bpp, "error": why})
            continue
        restored.append(back)
        if not complete(results.lines.get(key, {}), plan.metrics, min(rgb.shape[:2])):
            waiting.append((line, rgb, back))
    with ThreadPoolExecutor() as pool:
        for line in pool.map(lambda one: _distortion(one[0], one[1], one[2], plan.metrics), waiting):
            results.add(line)
    return restored if len(restored) == len(originals) else []


def _told(originals: Sequence[Rgb], restored: Sequence[Rgb], plan: Plan) -> Line:
    """C2ST and what else compares sets; what cannot be had here is left out."""
    found: Line = {}
    try:
        verdict = c2st.c2st(originals, restored)
        found["c2st"] = {name: round(value, 5) for name, value in asdict(verdict).items()}
    except MissingError:
        pass
    for name, measure in plan.others.items():
        found[name] = round(measure(originals, restored), 5)
    return found


def measure(plan: Plan, results: Results) -> None:
    """Everything of the plan that the results have not got yet.

    Raises:
        BenchError: the pictures are too few or too small.
    """
    originals = {file.name: file.pixels() for file in plan.pictures.files}
    real = list(originals.values())
    try:
        reference = swd.Reference(real)
        if ("", ORIGINALS, 0.0) not in results.lines:
            floor = {str(level): round(value, 5) for level, value in reference.floor.items()}
            results.add({"codec": ORIGINALS, "target_bpp": 0.0, "swd": floor, **_told(real, real, plan)})
        todo = [(b, p) for b in plan.targets_bpp for p in plan.peers if not _complete(plan, results, p, b)]
        progress = Progress("realism", _work(todo))
        for target_bpp, peer in todo:
            restored = _pictures(plan, results, originals, peer, target_bpp)
            if restored:
                distances = {str(k): round(value, 5) for k, value in reference.distances(restored).items()}
                told = _told(real, restored, plan)
                results.add({"codec": peer.name, "target_bpp": target_bpp, "swd": distances, **told})
            progress.step(peer.name, 1, text=f"{target_bpp:g} bpp, {peer.label}")
        progress.clear()
    except ValueError as error:
        raise BenchError(str(error)) from None


def _work(todo: Sequence[tuple[float, Peer]]) -> dict[str, float]:
    work: dict[str, float] = {}
    for _, peer in todo:
        work[peer.name] = work.get(peer.name, 0) + 1
    return work


def _complete(plan: Plan, results: Results, peer: Peer, target_bpp: float) -> bool:
    whole = results.lines.get(("", peer.name, target_bpp), {})
    if not whole or not all(name in whole for name in plan.others):
        return False
    if "c2st" not in whole and _has_torch():
        return False
    for file in plan.pictures.files:
        line = results.lines.get((file.name, peer.name, target_bpp), {})
        facts = results.run["pictures"][file.name]
        if not complete(line, plan.metrics, min(int(facts["width"]), int(facts["height"]))):
            return False
    return True


def _has_torch() -> bool:
    try:
        return bool(c2st.version())
    except MissingError:
        return False
