# SPDX-License-Identifier: MIT
"""The results folder: what was measured, on what, with what. Read, appended to and resumed here; nothing is computed.

run.json         versions, processor, command, date, pictures, codecs      rewritten at every start
results.jsonl    a line per picture, codec and setting                     appended to, flushed line by line
processes.jsonl  a line per whole process: seconds and peak memory         likewise
seams.jsonl      a line per large picture, codec and setting               likewise
published.json   curves measured by others, if some were given

In a committed folder the .jsonl files are compressed (.jsonl.xz), and are read from there.
"""

from __future__ import annotations

import json
import lzma
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from bench.errors import BenchError

RUN, ROWS, PROCESSES, PUBLISHED = "run.json", "results.jsonl", "processes.jsonl", "published.json"
SEAMS = "seams.jsonl"
PACKED = ".xz"
FORMAT = 2


class Row(TypedDict):
    """One picture, codec and setting. `error` stands instead of the figures when the codec failed."""

    picture: str
    peer: str
    setting: int
    bytes: NotRequired[int]
    enc_seconds: NotRequired[float]  # median of the repeats, in this process, warm
    dec_seconds: NotRequired[float]
    error: NotRequired[str]
    # The metrics, by their names in metrics.py; one is missing where the picture is too small for it
    psnr: NotRequired[float]
    psnr_centred: NotRequired[float]
    psnr_luma: NotRequired[float]
    psnr_chroma: NotRequired[float]
    ms_ssim: NotRequired[float]
    ssimulacra2: NotRequired[float]
    cvvdp: NotRequired[float]
    gmsd: NotRequired[float]
    haarpsi: NotRequired[float]


class ProcessRow(TypedDict):
    """One whole process, start to end, file to file, or a folder's worth of them; or one call in a warm process."""

    scope: str  # "warm" and "process": one picture; "folder": all of them; "scaling": pictures made for that table
    picture: str  # for a folder: how many pictures
    pixels: int
    peer: str
    setting: int
    direction: str  # "encode" or "decode"
    seconds: NotRequired[float]
    peak_bytes: NotRequired[int | None]  # None where the system does not tell
    error: NotRequired[str]


class SeamRow(TypedDict):
    """One large picture, codec and setting: steps at tile edges and shifts of hue; see seams.py."""

    picture: str
    peer: str
    setting: int
    bpp: float
    seam: float
    worst: float
    grid: float
    hue: float


class PublishedCurve(TypedDict):
    """A curve that somebody else measured."""

    label: str
    source: str
    trained_on: list[str]
    points: list[dict[str, float]]  # bpp, psnr, ms_ssim


class Run(TypedDict):
    """The contents of run.json."""

    format: int
    set: str
    commands: list[str]
    date: str
    processor: str
    processors: int
    system: str
    python: str
    threads: int  # processors used
    repeats: int
    metrics: dict[str, str]  # name -> version
    pictures: dict[str, dict[str, int | str]]  # name -> width, height, sha256 of the pixels
    peers: dict[str, dict[str, str]]  # name -> label, stated, version, files (a checksum), trained_on (metrics)
    missing: dict[str, str]  # name -> why it was left out
    borrowed: NotRequired[dict[str, list[str]]]  # date of an earlier release -> the codecs whose rows are from there


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def described(command: list[str], **more: Any) -> Run:
    """A new run.json: this machine, now; folders in the command are cut to their last name."""
    shown = ["=".join(Path(p).name if os.path.isabs(p) else p for p in part.split("=")) for part in command]
    return cast(
        Run,
        {
            "format": FORMAT,
            "commands": [" ".join(["python -m bench", *shown])],
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "processor": processor(),
            "processors": os.cpu_count() or 1,
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            **more,
        },
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file, or of the compressed one in its place.

    A last line that was cut off when the run was killed is dropped, on disk too.

    Raises:
        BenchError: it is malformed.
    """
    packed = path.with_name(path.name + PACKED)
    if not path.exists() and packed.exists():
        try:
            return [json.loads(line) for line in lzma.decompress(packed.read_bytes()).decode().splitlines()]
        except (lzma.LZMAError, ValueError) as error:
            raise BenchError(f"{packed} is malformed ({error})") from None
    if not path.exists():
        return []
    found = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number != len(lines) - 1:
                raise BenchError(f"{path}, line {number + 1} is not JSON; start over with --fresh") from None
            path.write_text("".join(kept + "\n" for kept in lines[:-1]), encoding="utf-8")
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """What a measure left in a file that is named after its command.

    Raises:
        BenchError: it is not there.
    """
    name, folder = path.stem, path.parent
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder} holds no {name} ({error!r}): run python -m bench {name} --out {folder}") from None
    return found


class Kept:
    """Rows of a measure that are on disk as soon as they are measured; a run that was stopped goes on where it was.

    Args:
        path: the file that `read_facts` reads.
        facts: of this run.
        same: which of them must be as they were for the rows that are there to be kept.
    """

    def __init__(self, path: Path, facts: dict[str, Any], same: Sequence[str]) -> None:
        self.path, self._facts = path, facts
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            old = json.loads(path.read_text(encoding="utf-8"))
            if all(old.get(name) == facts[name] for name in same):
                self.rows = old["rows"]
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        """One more row."""
        self.rows.append(row)
        replace(self.path, json.dumps({**self._facts, "rows": self.rows}, indent=1) + "\n")


def pack(source: Path, target: Path) -> None:
    """Compress a .jsonl file; the same lines give the same bytes.

    Args:
        source: the file itself, or the name it would have in a folder where it is compressed already.
        target: the same name in another folder, without .xz.
    """
    lines, packed = read_lines(source), target.with_name(target.name + PACKED)
    if lines:
        data = "".join(line_of(line) for line in lines).encode()
        packed.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    else:
        packed.unlink(missing_ok=True)


class Store:
    """A results folder. `rows` and `processes` hold one entry per key, the last one that was written."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run
        self.rows: dict[tuple[str, str, int], Row] = {}
        self.processes: dict[tuple[str, str, int, str, int, str], ProcessRow] = {}
        self.seams: dict[tuple[str, str, int], SeamRow] = {}
        self.published: dict[str, PublishedCurve] = {}

    @staticmethod
    def _key(row: Row | SeamRow) -> tuple[str, str, int]:
        return row["picture"], row["peer"], row["setting"]

    @staticmethod
    def process_key(row: ProcessRow) -> tuple[str, str, int, str, int, str]:
        """What tells a process from the others."""
        return row["scope"], row["picture"], row["pixels"], row["peer"], row["setting"], row["direction"]

    @classmethod
    def read(cls, folder: Path) -> Store:
        """A folder that a run left.

        Raises:
            BenchError: there is none, or it is malformed.
        """
        try:
            run = json.loads((folder / RUN).read_text(encoding="utf-8"))
            if run["format"] != FORMAT:
                raise BenchError(f"{folder} was written by another version of the benchmark; start over with --fresh")
            store = cls(folder, run)
            for row in read_lines(folder / ROWS):
                store.rows[cls._key(cast(Row, row))] = cast(Row, row)
            for row in read_lines(folder / PROCESSES):
                store.processes[cls.process_key(cast(ProcessRow, row))] = cast(ProcessRow, row)
            for row in read_lines(folder / SEAMS):
                store.seams[cls._key(cast(SeamRow, row))] = cast(SeamRow, row)
            if (folder / PUBLISHED).exists():
                store.published = json.loads((folder / PUBLISHED).read_text(encoding="utf-8"))
        except OSError as error:
            raise BenchError(
                f"{folder} holds no results ({error.strerror}): run python -m bench --out {folder}"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"the results in {folder} are malformed ({error!r}); start over with --fresh") from None
        return store

    @classmethod
    def start(cls, folder: Path, run: Run, fresh: bool = False) -> tuple[Store, list[str]]:
        """Open a folder for a run, with what it holds already and may keep.

        Kept are the rows of codecs that have not changed. Rows of an error count as not measured.

        Returns:
            the store, and a sentence for each thing that is not kept.

        Raises:
            BenchError: the folder holds results of other pictures.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            for name in (ROWS, PROCESSES, SEAMS, RUN):
                (folder / name).unlink(missing_ok=True)
                (folder / (name + PACKED)).unlink(missing_ok=True)
        notes: list[str] = []
        store = cls(folder, run)
        if (folder / RUN).exists():
            old = cls.read(folder)
            if old.run["pictures"] != run["pictures"]:
                raise BenchError(f"{folder} holds results of other pictures; give another --out, or start with --fresh")
            changed = store._adopt(old)
            notes = [
                f"{name} has changed since ({what}); its rows are measured again" for name, what in changed.items()
            ]
            if old.run["processor"] != run["processor"]:
                notes.append(
                    f"these results were begun on another processor ({old.run['processor']}): speeds are mixed"
                )
        store._write()
        return store, notes

    def _adopt(self, old: Store) -> dict[str, str]:
        """Take over what an earlier run measured; returns the codecs that have changed."""
        changed = {
            name: f"{peer['version']}{', files ' * ('files' in peer)}{peer.get('files', '')} then"
            for name, peer in old.run["peers"].items()
            if name in self.run["peers"] and not _same(self.run["peers"][name], peer)
        }
        dated = self._dated(old)
        self.rows = {k: _without(row, dated) for k, row in old.rows.items() if row["peer"] not in changed}
        kept = {k: row for k, row in old.processes.items() if row["peer"] not in changed}
        self.processes = kept
        self.seams = {k: row for k, row in old.seams.items() if row["peer"] not in changed}
        self.run["commands"] = list(dict.fromkeys([*old.run["commands"], *self.run["commands"]]))
        self.run["peers"] = {**old.run["peers"], **self.run["peers"]}
        self.run["metrics"] = {**old.run["metrics"], **self.run["metrics"]}
        if "borrowed" in old.run:
            self.run["borrowed"] = old.run["borrowed"]
        self.run["missing"] = {
            k: why for k, why in {**old.run["missing"], **self.run["missing"]}.items() if k not in self.run["peers"]
        }
        self.published = old.published
        return changed

    def _dated(self, old: Store) -> list[str]:
        """The metrics that an earlier run measured with another version of their library."""
        now = self.run["metrics"]
        return [name for name, version in old.run["metrics"].items() if name in now and now[name] != version]

    def borrow(self, old: Store) -> list[str]:
        """Take over rows of an earlier release: same pictures, same codec with the same options; without times.

        Returns:
            a sentence for each thing that is taken, or not.

        Raises:
            BenchError: it has none of these pictures.
        """
        common = [name for name, facts in self.run["pictures"].items() if old.run["pictures"].get(name) == facts]
        if not common:
            raise BenchError(f"{old.folder} holds results of other pictures")
        mine, theirs = self.run["peers"], old.run["peers"]
        same = [name for name in mine if name in theirs and _same(mine[name], theirs[name])]
        drop = ["enc_seconds", "dec_seconds", *self._dated(old)]
        rows = {k: row for k, row in old.rows.items() if k[0] in common and k[1] in same and k not in self.rows}
        taken = {k: _without(row, drop) for k, row in rows.items()}
        names = sorted({row["peer"] for row in taken.values()})
        if not names:
            return []
        dates = self.run.setdefault("borrowed", {})
        dates[old.run["date"]] = sorted({*dates.get(old.run["date"], []), *names})
        self.run["metrics"] = {**old.run["metrics"], **self.run["metrics"]}
        self.rows.update(taken)
        self._write()
        return [f"{len(taken)} rows of {', '.join(names)} are those of {old.folder} ({old.run['date']})"]

    def _write(self) -> None:
        replace(self.folder / RUN, json.dumps(self.run, indent=1, ensure_ascii=False) + "\n")
        for name, rows in ((ROWS, self.rows), (PROCESSES, self.processes), (SEAMS, self.seams)):
            replace(self.folder / name, "".join(line_of(row) for row in rows.values()))

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; they are on disk when this returns."""
        rows = list(rows)
        self.rows.update((self._key(row), row) for row in rows)
        append(self.folder / ROWS, "".join(line_of(row) for row in rows))

    def add_process(self, row: ProcessRow) -> None:
        """Append one process; it is on disk when this returns."""
        self.processes[self.process_key(row)] = row
        append(self.folder / PROCESSES, line_of(row))

    def add_seam(self, row: SeamRow) -> None:
        """Append one large picture; it is on disk when this returns."""
        self.seams[self._key(row)] = row
        append(self.folder / SEAMS, line_of(row))

    def publish(self, curves: dict[str, PublishedCurve]) -> None:
        """Keep curves measured by others beside the results."""
        if curves == self.published:
            return
        self.published = curves
        replace(self.folder / PUBLISHED, json.dumps(curves, indent=1, ensure_ascii=False) + "\n")


def _same(mine: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether a codec has not changed: by the checksum of its files where both have one, else by its version."""
    key = "files" if "files" in mine and "files" in theirs else "version"
    return all(mine[k] == theirs[k] for k in (key, "stated"))


def _without(row: Row, names: Iterable[str]) -> Row:
    """A row without some of its figures."""
    return cast(Row, {key: value for key, value in row.items() if key not in set(names)})


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line of a .jsonl file."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def append(path: Path, text: str) -> None:
    """Add text to a file; it is on disk when this returns."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def replace(path: Path, text: str) -> None:
    """Write a file in one go: whoever reads it finds the old text or the new one."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
