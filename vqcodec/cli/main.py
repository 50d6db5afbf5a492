# SPDX-License-Identifier: MIT
"""The command line: every command with its options, file names, messages and exit codes.

What a command does lives elsewhere (codec/, pictures/, demo.py), and is imported when it is needed: `--help` and a
mistyped option must not wait for NumPy, and `--threads` must be set before NumPy is loaded. Whatever goes wrong ends
as one line on stderr and an exit code (errors.py).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from vqcodec import __version__
from vqcodec.cli import batch, names, processes, streams
from vqcodec.cli.processes import Outcome
from vqcodec.cli.streams import DASH, shown
from vqcodec.errors import DamagedError, LimitError, ModelError, PartialError, UsageError
from vqcodec.options import DEFAULT_EFFORT, DEFAULT_MAX_PIXELS, DecodeOptions, EncodeOptions, Target
from vqcodec.threads import processors

SUFFIX = ".vqc"
PROGRESS_TILES = 4  # no progress bar for pictures with as many tiles or fewer
BYTES_PER_PIXEL = 16  # no picture or .vqc file that anybody writes takes more, but for metadata:
METADATA_BYTES = 64 << 20
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MAX_DAMAGE = 20  # sentences about one damaged file
COMPLETION_VARIABLE = "_VQCODEC_COMPLETE"
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


# ---- from the first argument to the exit code ------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        the exit code. (`vqcodec train` may also raise SystemExit.)
    """
    streams.fill_closed_descriptors()
    if instruction := os.environ.get(COMPLETION_VARIABLE):  # the shell asks what could follow
        from click.shell_completion import shell_complete

        return shell_complete(commands, {}, "vqcodec", COMPLETION_VARIABLE, instruction)
    if arguments is None:
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with commands.make_context("vqcodec", list(arguments) or ["--help"]) as context:
            commands.invoke(context)
        code = 0
    except click.exceptions.Exit as request:
        code = request.exit_code
    except SystemExit:
        raise
    except BaseException as error:
        if os.environ.get("VQCODEC_TRACEBACK"):
            raise
        code, message = _exit(error)
        streams.complain(message)
    return code if arguments else UsageError.exit_code


def _terminate(_signal: int, _frame: Any) -> None:
    raise SystemExit(EXIT_TERMINATED)  # so that temporary files are removed on the way out


def _exit(error: BaseException) -> tuple[int, str]:
    """The exit code and the line on stderr that an exception stands for."""
    match error:
        case click.Abort() | KeyboardInterrupt():
            return EXIT_INTERRUPTED, "interrupted"
        case click.ClickException():
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "vqcodec"
            return UsageError.exit_code, f"{error.format_message().rstrip('.')} (see {command} --help)"
        case _:
            return processes.failure(error)


# ---- messages while at work ------------------------------------------------------------------------------------------


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Puts the file's name in front of errors that do not know it."""
    try:
        yield
    except (DamagedError, LimitError, ModelError) as error:
        raise type(error)(f"{shown(name)}: {error}") from error


def _noted(name: str, notes: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}: {note}" for note in notes)


def _summary(source: str, target: str, what: str, started: float) -> str:
    """One line about one file."""
    seconds = time.perf_counter() - started
    return f"{shown(source)} -> {shown(target, 'stdout')}: {what}, {seconds:.2f} s"


class _Progress:
    """A progress bar on a terminal's stderr, for a picture of many tiles; called after each tile."""

    def __init__(self, name: str, alone: bool) -> None:
        self._label = shown(name)
        self._alone = alone  # otherwise there is a bar over all files
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, done: int, tiles: int) -> None:
        if not self._alone or tiles <= PROGRESS_TILES or not streams.on_terminal(sys.stderr):
            return
        if self._bar is None:
            self._bar = click.progressbar(length=tiles, label=self._label, file=sys.stderr)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)


# ---- the commands ----------------------------------------------------------------------------------------------------


def _limit_threads(_context: click.Context, _option: click.Parameter, threads: int) -> int:
    """Keeps NumPy's libraries, which read it when they are loaded, from starting threads of their own (threads.py)."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    return threads


def _region(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Four whole numbers between commas."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is not X,Y,W,H: four whole numbers, such as 0,0,640,480")
    return tuple(int(part) for part in parts)


_output_folder = click.option(
    "-o", "--output-dir", "folder", metavar="DIR", help="Write every input into this folder, under its own name."
)
_force = click.option("-f", "--force", is_flag=True, help="Overwrite an existing output.")
_threads = click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, callback=_limit_threads, metavar="N",
    help="Processor threads; 0, the default, for all.",
)  # fmt: skip
_quality = click.option(
    "-q", "--quality", type=click.IntRange(1, 100), metavar="N", help="More is better and larger; default 75."
)
_effort = click.option(
    "-e", "--effort", type=click.IntRange(1, 9), metavar="N", help="More is smaller and slower; default 5."
)
_model = click.option("--model", metavar="ID|PATH", help="A shipped model's id, or the folder of a model of your own.")
_max_pixels = click.option(
    "--max-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger pictures (default 268,435,456)."
)
_recursive = click.option("-r", "--recursive", is_flag=True, help="Search folders below folders; the tree is kept.")
_skip_existing = click.option("--skip-existing", is_flag=True, help="Leave out inputs whose output is there.")
_jobs = click.option(
    "-j", "--jobs", type=click.IntRange(0, 1024), default=1, metavar="N",
    help="Processes for several inputs, each with its share of the threads; 0 for one per processor. Default 1.",
)  # fmt: skip
_paths = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(readable=False), metavar="IN OUT | IN... -o DIR"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """A learned image codec: photographs to small .vqc files, and back.

    \b
    vqcodec compress photo.png photo.vqc
    vqcodec decompress photo.vqc back.png
    vqcodec compress -r -j 0 photos/ -o archive/
    vqcodec COMMAND --help

    Exit codes: 0 ok, 2 usage, 3 unreadable input or unwritable output, 4 damaged .vqc, 5 model not found, 6 output
    exists, 7 limit exceeded, 8 damaged .vqc restored in part.
    """


@commands.command(short_help="Pictures to .vqc files.")
@_paths
@_quality
@click.option(
    "--bpp",
    type=click.FloatRange(0, min_open=True),
    metavar="F",
    help="Instead of -q: bits per pixel of the whole file.",
)
@click.option(
    "--psnr", type=click.FloatRange(0, min_open=True), metavar="F", help="Instead of -q: the least PSNR, in dB."
)
@click.option("--max-bytes", type=click.IntRange(1), metavar="N", help="Instead of -q: the largest size of a file.")
@_effort
@_output_folder
@_recursive
@_jobs
@_skip_existing
@_force
@_threads
@_model
@click.option("--strip", is_flag=True, help="Leave out EXIF and XMP; a colour profile stays if it is not sRGB.")
@_max_pixels
def compress(paths: tuple[str, ...], folder: str | None, **options: Any) -> None:
    """Compress pictures to .vqc files; "-" is stdin or stdout.

    \b
    vqcodec compress photo.png photo.vqc
    vqcodec compress -q 50 photo.jpg small.vqc
    vqcodec compress --max-bytes 50000 photo.jpg small.vqc
    vqcodec compress holiday/ more.png -o archive/
    vqcodec compress -r -j 0 --skip-existing pictures/ -o archive/
    curl -s URL | vqcodec compress - - > photo.vqc
    """
    targets = {name: options.pop(name) for name in ("quality", "bpp", "psnr", "max_bytes")}
    given = ["--" + name.replace("_", "-") for name, value in targets.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} cannot both be met: give one of them")
    options["targets"] = targets
    _many(_compress, paths, folder, SUFFIX, names.PICTURE_SUFFIXES, options)


def _many(
    work: Any, paths: tuple[str, ...], folder: str | None, suffix: str, wanted: frozenset[str], options: dict[str, Any]
) -> None:
    """Runs `work` over all inputs, with those of the options that are its own."""
    recursive, count, skip = (options.pop(name) for name in ("recursive", "jobs", "skip_existing"))
    if skip and options["force"]:
        raise UsageError("--skip-existing leaves existing files alone, --force replaces them: give one of them")
    found = names.todo(paths, folder, suffix, wanted, recursive=recursive)
    count = min(count or processors(), len(found.pairs))
    if count > 1:
        options["threads"] = options["threads"] or max(1, processors() // count)
    if found.several and options["model"]:  # said once, and not of every file
        from vqcodec.model import zoo

        zoo.find(options["model"])
    batch.run(found, partial(work, **options), jobs=count, skip_existing=skip)


def _compress(
    source: str,
    target: str,
    *,
    targets: dict[str, Any],
    effort: int | None,
    force: bool,
    threads: int,
    model: str | None,
    strip: bool,
    max_pixels: int | None,
    alone: bool,
) -> Outcome:
    started = time.perf_counter()
    if Path(target).suffix.lower() in names.PICTURE_SUFFIXES:
        raise UsageError(f"{shown(target)} is the name of a picture: give the output a name that ends in {SUFFIX}")
    if not alone:
        names.make_folder(os.path.dirname(target))
    names.check_target(source, target, force)
    from vqcodec.codec.target import TOLERANCE, encode_to_target
    from vqcodec.pictures import read

    wanted = Target(**targets)
    limit = max_pixels or DEFAULT_MAX_PIXELS
    picture = read.load(streams.read_stdin(_limit_bytes(limit)) if source == DASH else source, max_pixels=limit)
    notes = [*picture.notes]
    with _about(source), _Progress(source, alone) as progress:
        reached = encode_to_target(
            picture,
            wanted,
            EncodeOptions(DEFAULT_EFFORT if effort is None else effort, threads, model, strip),
            progress,
        )
    streams.write(target, reached.data, force=force)
    if wanted.aim is not None:
        far = wanted.bpp is not None and abs(reached.bpp / wanted.bpp - 1) > TOLERANCE
        notes.append(reached.sentence + (f": the nearest to the {wanted.bpp:g} bpp asked for" if far else ""))
    height, width = picture.rgb.shape[:2]
    what = f"{width} x {height}, {len(reached.data):,} bytes, {reached.bpp:.3f} bpp"
    in_bytes = 0 if source == DASH else os.path.getsize(source)
    return Outcome(
        width * height, in_bytes, len(reached.data), _noted(shown(source), notes),
        _summary(source, target, what, started),
    )  # fmt: skip


@commands.command(short_help=".vqc files back to pictures.")
@_paths
@_output_folder
@_recursive
@_jobs
@_skip_existing
@_force
@_threads
@click.option("--model", metavar="PATH", help="The folder of the model, if the file was written with one of your own.")
@click.option("--format", "form", metavar="SUFFIX", help="png, jpg, webp...; default: OUT's suffix, png for - and -o.")
@click.option(
    "--decoder", type=click.Choice(["faithful", "realistic"]),
    help="realistic: with texture, made up, where bits were too few; the same files.  [default: faithful]",
)  # fmt: skip
@click.option("--realism", type=click.FloatRange(0, 1), metavar="0..1", help="How much of it.  [default: 1]")
@click.option("--region", callback=_region, metavar="X,Y,W,H", help="Only these pixels of the picture.")
@click.option("--scale", type=click.Choice(["1", "2", "4", "8"]), default="1", help="Divide width and height by this.")
@click.option("--allow-partial", is_flag=True, help="Restore what is left of a damaged file (exit code 8).")
@_max_pixels
def decompress(paths: tuple[str, ...], folder: str | None, form: str | None, **options: Any) -> None:
    """Restore the pictures of .vqc files; "-" is stdin or stdout.

    \b
    vqcodec decompress photo.vqc photo.png
    vqcodec decompress --region 0,0,128,96 photo.vqc piece.png
    vqcodec decompress --scale 8 photo.vqc thumbnail.png
    vqcodec decompress --decoder realistic photo.vqc photo.png
    vqcodec decompress --allow-partial broken.vqc rest.png
    vqcodec decompress archive/ -o pictures/ --format webp
    vqcodec decompress -r -j 0 archive/ -o pictures/
    vqcodec decompress - - < photo.vqc | display
    """
    suffix = None if form is None else "." + form.lower().removeprefix(".")
    options["suffix"] = suffix
    _many(_decompress, paths, folder, suffix or ".png", frozenset({SUFFIX}), options)


def _decompress(
    source: str,
    target: str,
    *,
    suffix: str | None,
    force: bool,
    threads: int,
    model: str | None,
    max_pixels: int | None,
    decoder: str | None,
    realism: float | None,
    region: tuple[int, int, int, int] | None,
    scale: str,
    allow_partial: bool,
    alone: bool,
) -> Outcome:
    started = time.perf_counter()
    suffix = suffix or (".png" if target == DASH else Path(target).suffix)
    if not suffix:
        raise UsageError(f"{shown(target)} has no suffix to say its format: add .png or the like, or give --format png")
    if not alone:
        names.make_folder(os.path.dirname(target))
    names.check_target(source, target, force)
    from vqcodec.bitstream import container
    from vqcodec.codec import decode
    from vqcodec.pictures.write import write_strips

    _check_format(suffix)
    limit = max_pixels or DEFAULT_MAX_PIXELS
    data = streams.read_marked(source, container.MAGIC, _limit_bytes(limit))
    out_bytes = 0
    with streams.opened(target, force=force) as write, _about(source), _Progress(source, alone) as progress:

        def counted(piece: bytes) -> None:
            nonlocal out_bytes
            out_bytes += len(piece)
            write(piece)

        strips = decode.decode_strips(
            data,
            DecodeOptions(decoder, realism, region, int(scale), threads, model, limit, allow_partial),
            progress,
        )
        notes = write_strips(strips, suffix, counted)
    name = shown(target, "stdout")
    partial_failure = (PartialError.exit_code, f"{shown(source)}: damaged; {name} shows what is left of it")
    return Outcome(
        strips.width * strips.height,
        len(data),
        out_bytes,
        _noted(shown(source), strips.damage[:MAX_DAMAGE]) + _noted(name, notes),
        _summary(source, target, f"{strips.width} x {strips.height}, {out_bytes:,} bytes", started),
        partial_failure if strips.damage else None,
    )


def _limit_bytes(max_pixels: int) -> int:
    return BYTES_PER_PIXEL * max_pixels + METADATA_BYTES


def _check_format(suffix: str) -> None:
    """Writes a tiny picture, to find out before the work whether this Pillow can write the format at all."""
    import numpy as np

    from vqcodec.pictures.picture import Picture
    from vqcodec.pictures.write import write_picture

    picture = Picture(np.zeros((16, 16, 3), np.uint8))
    write_picture(picture, suffix)


@commands.command(short_help="What is in a .vqc file, and whether it is whole.")
@click.argument("file", required=False, type=click.Path(readable=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@click.option("--model", metavar="ID|PATH", help="Check a model's files and show its card, in place of a FILE.")
def info(file: str | None, as_json: bool, model: str | None) -> None:
    """Say what is in a .vqc FILE ("-" for stdin), and whether it is whole.

    \b
    vqcodec info photo.vqc
    vqcodec info photo.vqc --json | jq .bpp
    vqcodec info --model photo-1
    """
    if (file is None) == (model is None):
        raise UsageError("give a FILE, or a model with --model: one of them")
    if file is None:
        from vqcodec.cli import info as describe
        from vqcodec.model import zoo

        found = zoo.find(model)
        streams.write_text(describe.model_as_json(found) if as_json else describe.model_as_text(found))
        return
    from vqcodec.bitstream import container
    from vqcodec.cli import info as describe

    data = streams.read_marked(file, container.MAGIC, _limit_bytes(DEFAULT_MAX_PIXELS))
    with _about(file):
        facts = describe.read(data)
    streams.write_text(describe.as_json(facts) if as_json else describe.as_text(facts, shown(file)))
    if facts["damage"]:
        raise DamagedError(f"{shown(file)}: {facts['damage'][0]}")


@commands.command(short_help="Codebook indices as NumPy arrays, and back.")
@click.argument("paths", nargs=-1, required=True, metavar="IN... -o TOKENS.npz")
@click.option("-o", "--output", "target", required=True, metavar="NPZ|DIR", help="Token file; with --back, a folder.")
@click.option("-r", "--recursive", is_flag=True, help="Search folders below folders; names say where.")
@_quality
@_effort
@click.option("--back", is_flag=True, help="From token files to pictures.")
@click.option("--format", "form", default="png", metavar="SUFFIX", help="With --back: vqc, png (default), jpg...")
@_force
@_threads
@_model
@_max_pixels
def tokens(paths: tuple[str, ...], back: bool, form: str, **options: Any) -> None:
    """Write the codebook indices of pictures or .vqc files as NumPy arrays, for models of your own.

    \b
    vqcodec tokens photos/ -q 1 -o tokens.npz        # -q 1: the base layer alone
    vqcodec tokens photo.vqc -o tokens.npz
    vqcodec tokens --back tokens.npz -o pictures/    # or --format vqc
    """
    from vqcodec.cli import tokens

    if not back:
        tokens.write(paths, **options)
        return
    quality, effort, recursive = (options.pop(name) for name in ("quality", "effort", "recursive"))
    if quality is not None or effort is not None:
        raise UsageError("--quality and --effort are of no use with --back: the token file says what its indices are")
    if recursive:
        raise UsageError("-r is of no use with --back: give the token files")
    tokens.back(paths, form=form, **options)


@commands.command(short_help="A bundled photograph, there and back, beside JPEG.")
@click.option(
    "-o", "--output-dir", "folder", default=".", metavar="DIR", help="Where to write the comparison (default: here)."
)
@_force
@_threads
def demo(folder: str, force: bool, threads: int) -> None:
    """Compress the bundled photograph at three qualities, restore it, and compare it with JPEG.

    Prints a table and writes vqcodec-demo.png, the pictures side by side.

    \b
    vqcodec demo
    vqcodec demo -o pictures/
    """
    from vqcodec.cli import demo as module

    names.make_folder(folder)
    module.run(folder, force=force, threads=threads)


@commands.command(short_help="A page with a slider: vqcodec, JPEG and AVIF at the same size.")
@click.argument("picture", type=click.Path(readable=False))
@click.argument("page", required=False, type=click.Path(readable=False))
@click.option(
    "-q", "--quality", "qualities", type=click.IntRange(1, 100), multiple=True, metavar="N",
    help="Sizes to compare at: those of vqcodec at this quality. May be given several times; default 40, 60 and 80.",
)  # fmt: skip
@_effort
@_force
@_threads
@_model
@_max_pixels
def compare(
    picture: str, page: str | None, qualities: tuple[int, ...], effort: int | None, force: bool, threads: int,
    model: str | None, max_pixels: int | None,
) -> None:  # fmt: skip
    """Write a page that shows PICTURE beside vqcodec, JPEG and AVIF of the same size, with a slider and the numbers.

    PAGE is one HTML file for any browser; without a name, photo.png gives photo-compare.html in this folder. Original
    and vqcodec are in it without loss, so expect some bytes per pixel.

    \b
    vqcodec compare photo.png
    vqcodec compare photo.png page.html -q 30 -q 60
    """
    target = page or Path(picture).stem + "-compare.html"
    names.check_target(picture, target, force)
    from vqcodec.cli import compare as module
    from vqcodec.pictures import read

    limit = max_pixels or DEFAULT_MAX_PIXELS
    loaded = read.load(streams.read_stdin(_limit_bytes(limit)) if picture == DASH else picture, max_pixels=limit)
    for note in _noted(shown(picture), loaded.notes):
        streams.complain(f"note: {note}")
    text = module.page(
        loaded, Path(shown(picture)).name, qualities=qualities or module.QUALITIES,
        options=EncodeOptions(DEFAULT_EFFORT if effort is None else effort, threads, model, strip=True),
    )  # fmt: skip
    streams.write(target, text.encode("utf-8"), force=force)
    if target != DASH:
        streams.write_text(f"{streams.printable(target)}: {len(text):,} bytes, open it in a browser\n")


@commands.command(short_help="Completion for bash, zsh or fish.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options and file names.

    \b
    vqcodec completion bash >> ~/.bashrc
    vqcodec completion zsh >> ~/.zshrc
    vqcodec completion fish > ~/.config/fish/completions/vqcodec.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    streams.write_text(found(commands, {}, "vqcodec", COMPLETION_VARIABLE).source() + "\n")


@commands.command(
    short_help="Folders or buckets, on a Ray cluster.",
    add_help_option=False, context_settings={"ignore_unknown_options": True},
)  # fmt: skip
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def archive(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Code all pictures below one address to another, on a Ray cluster."""
    from vqcodec.cli.ray_archive import archive as command

    with command.make_context("archive", list(arguments) or ["--help"], parent=context.parent) as inner:
        command.invoke(inner)


@commands.command(
    short_help="A model of your own (needs torch).",
    add_help_option=False, context_settings={"ignore_unknown_options": True},
)  # fmt: skip
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def train(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Train a model on your own pictures (needs torch: pip install 'vqcodec[train]')."""
    try:
        from vqcodec.train.cli import main as run
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "vqcodec"):
            raise
        raise UsageError(f"training needs {missing}: pip install 'vqcodec[train]'") from None
    context.exit(run(arguments))
