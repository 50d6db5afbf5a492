# SPDX-License-Identifier: MIT
"""`vqcodec archive`: all pictures below one address to another, on every processor of a Ray cluster.

Ray Data does the scheduling, the restarts and the streaming of results; fsspec does the reading and writing, so an
address is a folder or s3://, gs://, abfs://, sftp:// and the like. Here is only said what becomes what, what one
process does, and how it is told. Needs the extra `ray`.
"""

from __future__ import annotations

import logging
import os
import posixpath
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import click

from vqcodec.cli import options, processes, streams
from vqcodec.cli.names import PICTURE_SUFFIXES
from vqcodec.cli.streams import shown
from vqcodec.errors import InputError, OutputExistsError, UsageError
from vqcodec.messages import one_line
from vqcodec.options import DEFAULT_EFFORT, DecodeOptions

PICTURES_PER_BLOCK = 8  # what Ray hands to a process at once, and what is lost when a process dies again and again
LOST = "no answer from the process that worked on it: run again with --skip-existing"
# Stores whose objects appear whole or not at all; elsewhere a file is renamed into place.
ATOMIC_STORES = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "memory"))
Row = dict[str, Any]


@dataclass
class Report:
    """What became of an archive."""

    done: int = 0
    skipped: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    failures: list[tuple[str, int, str]] = field(default_factory=list)  # address, exit code, message


@dataclass(frozen=True)
class Settings:
    """What every process does: compress with these settings, or decompress to pictures of `suffix`."""

    decompress: bool = False
    suffix: str = ".vqc"
    quality: int | None = None
    effort: int | None = None
    tune: str | None = None
    strip: bool = False
    model: str | None = None
    force: bool = False


class Coder:
    """One process of the cluster; keeps the model that it has loaded."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(self, row: Row) -> Row:
        """One picture: `source` and `target` in; the same and `bytes_in`, `bytes_out`, `code`, `message` out."""
        result = {**row, "bytes_in": 0, "bytes_out": 0, "code": 0, "message": ""}
        try:
            data = _read(row["source"])
            encoded = self._code(data)
            _write(row["target"], encoded, self.settings.force)
            return {**result, "bytes_in": len(data), "bytes_out": len(encoded)}
        except Exception as error:
            code, message = processes.failure(error)
            return {**result, "code": code, "message": f"{shown(row['source'])}: {message}"}

    def _code(self, data: bytes) -> bytes:
        from vqcodec import api
        from vqcodec.codec import decode
        from vqcodec.pictures import write

        s = self.settings
        if s.decompress:
            return write.write_picture(decode.decode(data, DecodeOptions(threads=1, model=s.model)), s.suffix)[0]
        effort = s.effort or DEFAULT_EFFORT
        return api.encode(data, s.quality, effort=effort, tune=s.tune, threads=1, model=s.model, strip=s.strip)


def _read(address: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(address, "rb") as stream:
            return bytes(stream.read())
    except Exception as error:  # every kind of store has its own
        raise InputError(f"cannot be read ({one_line(error)})") from error


def _write(address: str, data: bytes, force: bool) -> None:
    """Writes an object whole or not at all.

    Raises:
        OutputExistsError: it exists, and `force` is not given.
        InputError: it cannot be written.
    """
    import fsspec

    from vqcodec.cli import atomic

    store, path = fsspec.core.url_to_fs(address)
    if "file" in _protocols(store):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        atomic.write_atomic(path, data, force=force)
        return
    try:
        if not force and store.exists(path):
            raise OutputExistsError(f"{shown(address)} exists already: overwrite it with -f")
        if ATOMIC_STORES.intersection(_protocols(store)):
            store.pipe_file(path, data)
            return
        store.makedirs(posixpath.dirname(path), exist_ok=True)
        temporary = posixpath.join(posixpath.dirname(path), f".vqcodec-{secrets.token_hex(8)}.tmp")
        store.pipe_file(temporary, data)
        store.mv(temporary, path)
    except OutputExistsError:
        raise
    except Exception as error:
        raise InputError(f"{shown(address)} cannot be written ({one_line(error)})") from error


def _protocols(store: Any) -> tuple[str, ...]:
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)


# ---- what becomes what -----------------------------------------------------------------------------------------------


def plan(source: str, target: str, settings: Settings, skip_existing: bool) -> tuple[list[Row], Report]:
    """Lists all files below `source` that are wanted, each with its address below `target`; the tree is kept.

    Raises:
        InputError: the source cannot be listed, or nothing is there.
    """
    wanted = frozenset((".vqc",)) if settings.decompress else PICTURE_SUFFIXES
    rows: list[Row] = []
    report = Report()
    taken: dict[str, str] = {}
    there = set(_below(target, missing_ok=True)) if skip_existing else set()
    for place in _below(source):
        stem, suffix = posixpath.splitext(place)
        if suffix.lower() not in wanted or any(part.startswith(".") for part in place.split("/")):
            continue
        goal = stem + settings.suffix
        first = taken.setdefault(goal, place)
        if first != place:
            message = f"{shown(place)}: left out, because {shown(goal)} is written from {shown(first)}"
            report.failures.append((place, OutputExistsError.exit_code, message))
        elif goal in there:
            report.skipped += 1
        else:
            rows.append({"source": f"{source.rstrip('/')}/{place}", "target": f"{target.rstrip('/')}/{goal}"})
    if not rows and not report.skipped:
        raise InputError(f"nothing to do below {shown(source)}: no file ends in {' '.join(sorted(wanted))}")
    return rows, report


def _below(address: str, missing_ok: bool = False) -> Iterator[str]:
    """Paths of all files below an address, relative to it, sorted."""
    import fsspec

    try:
        store, root = fsspec.core.url_to_fs(address)
        if not missing_ok and not store.isdir(root):
            raise InputError(f"cannot list {shown(address)}: there is no such folder")
        paths = store.find(root)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot list {shown(address)}: {one_line(error)}") from error
    root = root.rstrip("/") + "/"
    yield from sorted(path.removeprefix(root) for path in paths)


def run(
    source: str,
    target: str,
    settings: Settings,
    *,
    jobs: int = 0,
    skip_existing: bool = False,
    cluster: str | None = None,
) -> Report:
    """Codes every picture below `source` to `target`.

    Args:
        source, target: folders or addresses that fsspec knows.
        jobs: processes at most; 0 for one per processor of the cluster.
        skip_existing: leave out what is at the target already: how a run that was stopped goes on.
        cluster: address of a running Ray cluster; None starts one on this machine.

    Returns:
        numbers, and every failure.

    Raises:
        InputError: the source cannot be listed, or nothing is there.
        UsageError: Ray or fsspec is missing, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send statistics to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError("archives on several machines need Ray: pip install 'vqcodec[ray]'") from None
    rows, report = plan(source, target, settings, skip_existing)
    if not rows:
        return report
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(address=cluster, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except (ValueError, ConnectionError, RuntimeError) as error:
        raise UsageError(f"cannot use the Ray cluster {shown(cluster or 'of our own')}: {one_line(error)}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = streams.on_terminal(sys.stderr)
    context.max_errored_blocks = -1  # a process that dies again and again takes its block with it, no more
    cluster_resources: Callable[[], dict[str, float]] = ray.cluster_resources
    count = min(jobs or int(cluster_resources().get("CPU", 1)), len(rows))
    blocks = max(count, len(rows) // PICTURES_PER_BLOCK)
    results = ray.data.from_items(rows, override_num_blocks=min(blocks, len(rows))).map(
        cast("Any", Coder),
        fn_constructor_args=(settings,),
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count),
    )
    lost = {row["source"] for row in rows}
    for row in results.iter_rows():
        lost.discard(row["source"])
        if row["code"]:
            report.failures.append((row["source"], row["code"], row["message"]))
            continue
        report.done += 1
        report.in_bytes += row["bytes_in"]
        report.out_bytes += row["bytes_out"]
    report.failures += [(name, InputError.exit_code, f"{shown(name)}: {LOST}") for name in lost]
    report.failures.sort()
    return report


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("-d", "--decompress", is_flag=True, help="Restore pictures from .vqc files instead.")
@options.quality
@options.effort
@options.tune
@click.option("--format", "form", default="png", show_default=True, metavar="SUFFIX", help="With -d: picture format.")
@options.strip
@click.option("--model", metavar="ID|PATH", help="Id of a shipped model, or a folder that every machine can read.")
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@options.skip_existing
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Number of processes; 0 (default): one per processor.",
)
@click.option("--cluster", metavar="ADDRESS", help="Running Ray cluster: auto or HOST:PORT. Default: this machine.")
def archive(
    source: str, target: str, decompress: bool, form: str, skip_existing: bool, jobs: int, cluster: str | None,
    **settings: Any,
) -> None:  # fmt: skip
    """Compress all pictures in SOURCE and its subfolders to TARGET, on a Ray cluster.

    SOURCE and TARGET are folders or addresses such as s3://bucket/photos. Needs the extra: pip install 'vqcodec[ray]'.

    \b
    vqcodec archive photos/ archive/
    vqcodec archive s3://bucket/photos s3://bucket/archive -q 80 --cluster auto --skip-existing
    vqcodec archive -d s3://bucket/archive restored/
    """
    if skip_existing and settings["force"]:
        raise UsageError("--skip-existing leaves existing files alone, --force replaces them: give one of them")
    suffix = "." + form.lower().removeprefix(".") if decompress else ".vqc"
    work = Settings(decompress, suffix, **settings)
    report = run(source, target, work, jobs=jobs, skip_existing=skip_existing, cluster=cluster)
    for _, _, message in report.failures:
        streams.complain(message)
    sizes = f"{report.in_bytes:,} -> {report.out_bytes:,} bytes"
    streams.write_text(f"{report.done:,} done, {report.skipped:,} skipped, {len(report.failures):,} failed; {sizes}\n")
    if report.failures:
        raise click.exceptions.Exit(report.failures[0][1])
