# SPDX-License-Identifier: MIT
"""`vqcodec tokens`: pictures and .vqc files to a token file, and back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from vqcodec.bitstream import container
from vqcodec.cli import batch, names, streams
from vqcodec.cli.processes import Outcome
from vqcodec.cli.streams import DASH, shown
from vqcodec.codec import tokens
from vqcodec.codec.token_file import SUFFIX, Reader, Writer
from vqcodec.errors import InputError, UsageError, VqcError
from vqcodec.model import zoo
from vqcodec.options import DEFAULT_EFFORT, DEFAULT_MAX_PIXELS, DEFAULT_QUALITY, DecodeOptions, EncodeOptions
from vqcodec.pictures import read
from vqcodec.pictures.write import write_picture

MAX_FILE_BYTES = 1 << 34


def write(
    paths: tuple[str, ...],
    *,
    target: str,
    recursive: bool = False,
    quality: int | None,
    effort: int | None,
    force: bool,
    threads: int,
    model: str | None,
    max_pixels: int | None,
) -> None:
    """Write the tokens of pictures, .vqc files and folders of them; one that fails is reported, the rest goes on.

    Raises:
        VqcError: as the codec does, and for an output that cannot be written.
    """
    if target != DASH and Path(target).suffix.lower() != SUFFIX:
        raise UsageError(f"{shown(target)}: give the token file a name that ends in {SUFFIX}")
    todo = names.inputs(paths, names.PICTURE_SUFFIXES | {".vqc"}, recursive=recursive)
    for source, _ in todo.pairs:
        names.check_target(source, target, force)
    limit = max_pixels or DEFAULT_MAX_PIXELS
    out = Writer(zoo.load(zoo.find(model), threads))

    def one(source: str, target: str, *, alone: bool) -> Outcome:
        notes: tuple[str, ...]
        data = streams.NamedBytes(streams.read(source, MAX_FILE_BYTES))
        data.name = shown(source)
        if data.getvalue().startswith(container.MAGIC):
            with _about(data.name):
                layout = container.read_header(data.getvalue())
                if layout.header.model != out.model.files.checksum:
                    raise InputError("it was written with another model than the token file: give it with --model")
                found = tokens.of_file(data.getvalue(), DecodeOptions(threads=threads, model=model, max_pixels=limit))
                notes, alpha = (), layout.lengths.alpha is not None
        else:
            picture = read.load(data, max_pixels=limit)
            notes, alpha = picture.notes, picture.alpha is not None
            wanted = DEFAULT_QUALITY if quality is None else quality
            options = EncodeOptions(DEFAULT_EFFORT if effort is None else effort, threads, model)
            found = tokens.of_picture(picture, wanted, options)
        notes = (*notes, "transparency is no part of the tokens: dropped")[: None if alpha else -1]
        place = Path(target).parts[1:]
        out.add("stdin" if source == DASH else "/".join([*place, Path(source).stem]), found)
        return Outcome(found.width * found.height, notes=tuple(f"{data.name}: {note}" for note in notes))

    try:
        batch.run(todo, one)
    except click.exceptions.Exit:  # some failed, and it was said
        if len(out):
            streams.write(target, out.finish(), force=force)
        raise
    streams.write(target, out.finish(), force=force)


def back(
    paths: tuple[str, ...],
    *,
    target: str,
    form: str,
    force: bool,
    threads: int,
    model: str | None,
    max_pixels: int | None,
) -> None:
    """Restore the pictures of token files into the folder `target`, as .vqc files if `form` is "vqc".

    Raises:
        VqcError: as the codec does, and for outputs that cannot be written.
    """
    suffix = "." + form.lower().removeprefix(".")
    limit = max_pixels or DEFAULT_MAX_PIXELS
    found: dict[str, tuple[Reader, int]] = {}
    todo = names.Todo(several=True)
    for path in paths:
        data = streams.read(path, MAX_FILE_BYTES)
        with _about(shown(path)):
            reader = Reader(data, max_pixels=limit)
        for number, name in enumerate(reader.names):
            output = os.path.join(target, _file_name(name) + suffix)
            found.setdefault(output, (reader, number))
            todo.pairs.append((f"{path}, picture {number} ({name})", output))
    if not todo.pairs:
        raise InputError("nothing to do: there is no picture in the token file")
    names.make_folder(target)

    def one(source: str, target: str, *, alone: bool) -> Outcome:
        streams.check_output(target, force)
        reader, number = found[target]
        with _about(shown(source)):
            own = zoo.by_checksum(bytes.fromhex(reader.checksum), model).folder
            taken = reader[number]
            if suffix == ".vqc":
                data, notes = tokens.to_file(taken, model=own), tuple[str, ...]()
            else:
                data, notes = write_picture(tokens.to_picture(taken, threads=threads, model=own), suffix)
        streams.write(target, data, force=force)
        return Outcome(
            taken.width * taken.height,
            out_bytes=len(data),
            notes=tuple(f"{shown(target)}: {note}" for note in notes),
        )

    batch.run(todo, one)


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Puts a name in front of the errors that come of what is in a file."""
    try:
        yield
    except VqcError as error:
        raise type(error)(f"{name}: {error}") from error


def _file_name(name: str) -> str:
    """A name that a stranger's file gives, made one that stays in its folder."""
    return re.sub(r"[^\w .,()+=@-]", "_", name)[:200].lstrip(".") or "picture"
