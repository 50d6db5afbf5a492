# SPDX-License-Identifier: MIT
"""What `vqcodec info` says about a file: the header's fields, where its bytes go, and whether it is whole.

Only the container is read: no model is loaded and no picture decoded. About a model it says what its card says, once
its files are found to be what they should be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import click

from vqcodec import api
from vqcodec.bitstream import container
from vqcodec.cli import names, processes, streams
from vqcodec.cli.streams import shown
from vqcodec.errors import DamagedError, UsageError
from vqcodec.messages import printable
from vqcodec.model import zoo
from vqcodec.model.zoo import MAX_CARD_BYTES, ModelFiles, read_file
from vqcodec.options import DEFAULT_MAX_PIXELS, most_file_bytes

Facts = dict[str, Any]
SUFFIX = ".vqc"
BAR_WIDTH = 30  # [characters] of the whole file
PARTS = {
    "header_bytes": "header",
    "icc_bytes": "ICC profile",
    "exif_bytes": "EXIF data",
    "colour_bytes": "colour layer",
    "base_bytes": "base layer",
    "refinement_bytes": "refinement layer",
    "alpha_bytes": "alpha channel",
    "xmp_bytes": "XMP data",
    "patches_bytes": "patches",
    "noise_bytes": "removed noise",
    "further_bytes": "unknown sections",
    "checksum_bytes": "checksums",
}


def read(data: bytes) -> Facts:
    """`api.info` and, as `damage`, a sentence for every part that is missing or not as it was written.

    Raises:
        DamagedError: not a .vqc file, or its header is damaged.
    """
    facts = api.info(data)
    facts["damage"] = list(container.unpack_partial(data, max_pixels=container.MAX_SIDE**2).damage)
    return facts


def as_json_text(facts: Facts, _name: str = "") -> str:
    """One object, indented, in ASCII."""
    return json.dumps(facts, indent=2) + "\n"


def as_json_line(facts: Facts, name: str) -> str:
    """One object on a line, in ASCII, with the file's name as `file`."""
    return json.dumps({"file": name, **facts}) + "\n"


def as_text(facts: Facts, name: str) -> str:
    """A few aligned lines for people."""
    width, height, size_bytes = facts["width"], facts["height"], facts["file_bytes"]
    samples = ("gray" if facts["gray"] else "RGB") + (" and alpha" if facts["alpha_bytes"] is not None else "")
    raw_bytes = width * height * (1 if facts["gray"] else 3)
    megapixels = f", {width * height / 1e6:.1f} megapixels" if width * height >= 1e5 else ""
    tiles, side = facts["tiles"], facts["tile_side"]
    lines = [
        ("picture", f"{width} x {height}, {samples}{megapixels}"),
        ("colours", _colours(facts)),
        ("size", f"{size_bytes:,} bytes, {facts['bpp']:.3f} bits per pixel, 1/{raw_bytes / size_bytes:.0f} of the raw"),
        ("quality", f"{facts['quality']} of 100, tune {facts['tune']}{_layers(facts)}"),
        *((("patches", _patches(facts)),) if facts["patches_bytes"] is not None else ()),
        *((("denoised", _denoised(facts)),) if facts["noise_bytes"] is not None else ()),
        ("model", f"{facts['model_id'] or 'not installed'} ({facts['model']})"),
        ("tiles", f"{tiles:,} of up to {side} x {side}" if tiles > 1 else "1"),
        ("format", f"version {facts['format_version']}"),
        *(("damage", sentence) for sentence in facts["damage"] or ["none, every checksum matches"]),
    ]
    text = [name, *(f"  {label:<18}{value}" for label, value in lines), ""]
    for key, label in PARTS.items():
        if facts[key] is not None:
            part = facts[key] / size_bytes
            bar = "#" * round(BAR_WIDTH * part)
            text.append(f"  {label:<18}{facts[key]:>12,} bytes {100 * part:>6.1f} %  {bar}".rstrip())
    return "\n".join(text) + "\n"


def _colours(facts: Facts) -> str:
    """What the samples mean."""
    if facts["icc_bytes"] is not None:
        return "as the ICC profile says"
    return "sRGB, marked as such" if facts["srgb"] else "sRGB"


def _patches(facts: Facts) -> str:
    """How much is kept without loss."""
    if facts["patched_blocks"] is None:
        return "damaged"
    count = -(-facts["width"] // 32) * -(-facts["height"] // 32)
    return f"{facts['patched_blocks']:,} of {count:,} blocks of 32 x 32, without loss"


def _denoised(facts: Facts) -> str:
    """How much noise was removed."""
    return "damaged" if facts["denoised"] is None else f"noise of {facts['denoised']:.1f} levels removed before coding"


def _layers(facts: Facts) -> str:
    """What stands behind the quality."""
    if facts["refinement_bytes"] is None and facts["patches_bytes"] is not None:
        return ", all of it without loss"
    base_only = ", base layer alone" if facts["refinement_bytes"] is None else ""
    return base_only + (", with a colour layer" if facts["colour_bytes"] is not None else "")


# ---- models ----------------------------------------------------------------------------------------------------------


def model_as_json(files: ModelFiles) -> str:
    """`model.json` with the checksum by which .vqc files name the model.

    Raises:
        ModelError: one of its files is missing or damaged.
    """
    for name in files.card["files"]:
        files.verified(name)
    return as_json_text({**files.card, "checksum": files.checksum.hex()})


def model_as_text(files: ModelFiles) -> str:
    """A few aligned lines, and the model's card for people if it has one.

    Raises:
        ModelError: one of its files is missing or damaged.
    """
    lines = [files.id, f"  {'named in files':<18}{files.checksum.hex()}"]
    for name in files.card["files"]:
        size_bytes = len(files.verified(name))
        lines.append(f"  {name:<18}{size_bytes:>12,} bytes, its sha256 is right")
    card = files.folder / "CARD.md"
    text = read_file(card, MAX_CARD_BYTES).decode("utf-8", "replace") if card.exists() else ""
    whole = "\n".join([*lines, "", text]).rstrip() + "\n"
    return printable(whole, keep="\n")


# ---- the command -----------------------------------------------------------------------------------------------------


@click.command()
@click.argument("paths", nargs=-1, metavar="[FILE...]", type=click.Path(readable=False))
@click.option("-r", "--recursive", is_flag=True, help="Include subfolders.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; for several files, one object per line.")
@click.option(
    "--model", metavar="ID|PATH",
    help="Model of files written with your own. Without FILE: check the model and show its card.",
)  # fmt: skip
def info(paths: tuple[str, ...], recursive: bool, as_json: bool, model: str | None) -> None:
    """Describe .vqc files, or folders of them, and check that they are intact. "-" stands for stdin.

    \b
    vqcodec info photo.vqc
    vqcodec info -r archive/
    vqcodec info photo.vqc --json | jq .bpp
    vqcodec info --model photo-1
    """
    files = None if model is None else zoo.find(model)
    if not paths:
        if files is None or recursive:
            raise UsageError("give a FILE, or a model with --model")
        streams.write_text(model_as_json(files) if as_json else model_as_text(files))
        return
    if len(paths) == 1 and not os.path.isdir(paths[0]):
        if recursive:
            raise UsageError("-r is for folders")
        _one(paths[0], files, as_json_text if as_json else as_text)
        return
    _several(names.inputs(paths, frozenset({SUFFIX}), recursive=recursive), files, as_json)


def _one(name: str, model: ModelFiles | None, as_what: Callable[[Facts, str], str]) -> None:
    """Says what is in a file.

    Raises:
        DamagedError, InputError, LimitError: as `read` and `streams.read_marked`; DamagedError also after it was said.
    """
    data = streams.read_marked(name, container.MAGIC, most_file_bytes(DEFAULT_MAX_PIXELS))
    with streams.about(name):
        facts = read(data)
    if model is not None and facts["model"] == model.checksum.hex():
        facts["model_id"] = model.id
    streams.write_text(as_what(facts, shown(name)))
    if facts["damage"]:
        raise DamagedError(f"{shown(name)}: {facts['damage'][0]}")


def _several(todo: names.Todo, model: ModelFiles | None, as_json: bool) -> None:
    """One file after the other; failures are told at the end, and the first one's exit code counts."""
    gap = ""

    def as_what(facts: Facts, name: str) -> str:
        nonlocal gap
        before, gap = gap, "\n"  # a line between two files
        return before + as_text(facts, name)

    def one(source: str, target: str, *, single: bool) -> processes.Outcome:
        _one(source, model, (lambda facts, _: as_json_line(facts, source)) if as_json else as_what)
        return processes.Outcome()

    for _, outcome in processes.outcomes(dict(enumerate(todo.pairs)), one, 1):
        if outcome.failure:
            todo.failures.append(outcome.failure)
    for _, message in todo.failures:
        streams.complain(message)
    if todo.failures:
        raise click.exceptions.Exit(todo.failures[0][0])
