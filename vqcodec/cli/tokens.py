# SPDX-License-Identifier: MIT
"""`vqcodec tokens`: pictures and .vqc files to a token file, and back."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import click

from vqcodec.bitstream import container
from vqcodec.bitstream.corrections import NONE
from vqcodec.cli import batch, names, options, streams
from vqcodec.cli.processes import Outcome
from vqcodec.cli.streams import DASH, shown
from vqcodec.codec.token_file import SUFFIX, Reader, Writer
from vqcodec.codec.tokens import of_file, of_picture, to_file, to_picture
from vqcodec.codec.tradeoff import CHEAPEN_EFFORT
from vqcodec.errors import InputError, UsageError, VqcError
from vqcodec.model import zoo
from vqcodec.options import BASE_ONLY_QUALITY, DEFAULT_EFFORT, DEFAULT_QUALITY, DecodeOptions, EncodeOptions
from vqcodec.pictures import read
from vqcodec.pictures.write import write_picture

MAX_FILE_BYTES = 1 << 34
MAX_NAME_BYTES = 200  # of a file's name without its suffix; file systems take 255


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="IN... -o TOKENS.npz")
@click.option(
    "-o", "--output", "target", required=True, metavar="NPZ|DIR", help="Token file to write; with --back, a folder."
)
@click.option("-r", "--recursive", is_flag=True, help="Include subfolders; names keep the path.")
@options.quality
@options.effort
@options.tune
@click.option("--back", is_flag=True, help="Restore pictures from token files.")
@click.option("--format", "form", default="png", metavar="SUFFIX", help="With --back: png (default), jpg, ... or vqc.")
@options.force
@options.threads
@options.model
@options.max_pixels
def tokens(
    paths: tuple[str, ...], target: str, recursive: bool, quality: int | None, effort: int | None,
    tune: str | None, back: bool, form: str, force: bool, threads: int, model: str | None, max_pixels: int,
) -> None:  # fmt: skip
    """Convert pictures or .vqc files to codebook indices (NumPy arrays), to train models of your own.

    \b
    vqcodec tokens photos/ -q 1 -o tokens.npz        # -q 1: base indices only
    vqcodec tokens photo.vqc -o tokens.npz
    vqcodec tokens --back tokens.npz -o pictures/    # or --format vqc
    """
    coding = EncodeOptions(effort or DEFAULT_EFFORT, threads, model, tune=tune)
    if not back:
        write(paths, target, quality or DEFAULT_QUALITY, coding, max_pixels, recursive=recursive, force=force)
        return
    if quality is not None or effort is not None or tune is not None:
        raise UsageError("-q, -e and --tune are of no use with --back: the token file says what its indices are")
    if recursive:
        raise UsageError("-r is of no use with --back: give the token files")
    restore(paths, target, "." + form.lower().removeprefix("."), coding, max_pixels, force=force)


def write(
    paths: tuple[str, ...], target: str, quality: int, coding: EncodeOptions, max_pixels: int, *, recursive: bool,
    force: bool,
) -> None:  # fmt: skip
    """Write the tokens of pictures, .vqc files and folders of them; one that fails is reported, the rest goes on.

    Raises:
        VqcError: as the codec does, and for an output that cannot be written.
    """
    if target != DASH and Path(target).suffix.lower() != SUFFIX:
        raise UsageError(f"{shown(target)}: give the token file a name that ends in {SUFFIX}")
    base_only = quality == BASE_ONLY_QUALITY
    if base_only:  # indices are for models that learn from them: no colour layer, which higher efforts fit
        coding = replace(coding, effort=min(coding.effort, CHEAPEN_EFFORT))
    todo = names.inputs(paths, names.PICTURE_SUFFIXES | {".vqc"}, recursive=recursive)
    for source, _ in todo.pairs:
        names.check_target(source, target, force)
    out = Writer(zoo.load(zoo.find(coding.model), coding.threads))
    decoding = DecodeOptions(threads=coding.threads, model=coding.model, max_pixels=max_pixels)

    def one(source: str, target: str, *, single: bool) -> Outcome:
        notes: tuple[str, ...]
        data = streams.NamedBytes(streams.read(source, MAX_FILE_BYTES))
        data.name = shown(source)
        if data.getvalue().startswith(container.MAGIC):
            with streams.about(data.name, VqcError):
                layout = container.read_header(data.getvalue())
                if layout.header.model != out.model.files.checksum:
                    raise InputError("it was written with another model than the token file: give it with --model")
                indices = of_file(data.getvalue(), decoding)
                if base_only:
                    indices = replace(indices, refinement=None, colour=NONE, quality=quality)
                kept = any(kind == container.KIND_PATCHES for kind, _ in layout.lengths.further)
                notes = ("what it keeps without loss is no part of the tokens: take the original picture",) * kept
                alpha = layout.lengths.alpha is not None
        else:
            picture = read.load(data, max_pixels=max_pixels)
            notes, alpha = picture.notes, picture.alpha is not None
            indices = of_picture(picture, quality, coding)
        notes = (*notes, "transparency is no part of the tokens: dropped")[: None if alpha else -1]
        place = Path(target).parts[1:]
        out.add("stdin" if source == DASH else "/".join([*place, Path(source).stem]), indices)
        return Outcome(indices.width * indices.height, notes=streams.noted(data.name, notes))

    try:
        batch.run(todo, one)
    except click.exceptions.Exit:  # some failed, and it was said
        if len(out):
            streams.write(target, out.finish(), force=force)
        raise
    streams.write(target, out.finish(), force=force)


def restore(
    paths: tuple[str, ...], target: str, suffix: str, coding: EncodeOptions, max_pixels: int, *, force: bool
) -> None:
    """Restore the pictures of token files into the folder `target`, as .vqc files if `suffix` is ".vqc".

    Raises:
        VqcError: as the codec does, and for outputs that cannot be written.
    """
    pictures: dict[str, tuple[Reader, int]] = {}
    todo = names.Todo(several=True)
    for path in paths:
        data = streams.read(path, MAX_FILE_BYTES)
        with streams.about(path, VqcError):
            reader = Reader(data, max_pixels=max_pixels)
        for number, name in enumerate(reader.names):
            output = os.path.join(target, _file_name(name) + suffix)
            pictures.setdefault(output, (reader, number))
            todo.pairs.append((f"{path}, picture {number} ({name})", output))
    if not todo.pairs:
        raise InputError("nothing to do: there is no picture in the token file")
    names.make_folder(target)

    def one(source: str, target: str, *, single: bool) -> Outcome:
        streams.check_output(target, force)
        reader, number = pictures[target]
        with streams.about(source, VqcError):
            own = zoo.by_checksum(bytes.fromhex(reader.checksum), coding.model).folder
            taken = reader[number]
            if suffix == ".vqc":
                data, notes = to_file(taken, model=own), tuple[str, ...]()
            else:
                data, notes = write_picture(to_picture(taken, DecodeOptions(threads=coding.threads, model=own)), suffix)
        streams.write(target, data, force=force)
        return Outcome(taken.width * taken.height, out_bytes=len(data), notes=streams.noted(shown(target), notes))

    batch.run(todo, one)


def _file_name(name: str) -> str:
    """A name that a stranger's file gives, made one that stays in its folder."""
    plain = re.sub(r"[^\w .,()+=@-]", "_", name).encode()[:MAX_NAME_BYTES]
    return plain.decode("utf-8", "ignore").lstrip(".") or "picture"
