# SPDX-License-Identifier: MIT
"""`vqcodec desktop`: what tells a desktop, its file managers and `file` about .vqc files, in the user's own folders.

Three files: a MIME type with its magic bytes, a thumbnailer, and an entry in ~/.magic, which may hold others.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click

from vqcodec.cli import atomic, names, options, streams
from vqcodec.cli.streams import shown
from vqcodec.errors import InputError, UsageError
from vqcodec.messages import reason

MIME = "image/x-vqc"  # as in the Pillow plugin
MIME_TYPE = f"""<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="{MIME}">
    <comment>vqcodec image</comment>
    <magic priority="60"><match type="string" offset="0" value="\\xb1VQC"/></magic>
    <glob pattern="*.vqc"/>
  </mime-type>
</mime-info>
"""
THUMBNAILER = """[Thumbnailer Entry]
Exec={command} desktop --thumbnail %s %i %o
MimeType={mime};
"""
BEGIN, END = "# vqcodec: begin\n", "# vqcodec: end\n"
MAGIC = f"{BEGIN}0\tstring\t\\261VQC\tvqcodec image\n!:mime\t{MIME}\n{END}"


@click.command()
@click.argument("paths", nargs=-1, metavar="", type=click.Path(readable=False))
@click.option("--install", is_flag=True, help="Register .vqc files with the desktop and `file`.")
@click.option("--remove", is_flag=True, help="Undo --install.")
@click.option(
    "--thumbnail", type=click.IntRange(1, 4096), metavar="SIZE", help="Write a thumbnail: --thumbnail SIZE IN OUT."
)
@options.max_pixels
def desktop(paths: tuple[str, ...], install: bool, remove: bool, thumbnail: int | None, max_pixels: int) -> None:
    """Show thumbnails of .vqc files in file managers, and let `file` recognise them.

    Only files in your home folder are changed.

    \b
    vqcodec desktop --install
    vqcodec desktop --remove
    """
    if install + remove + (thumbnail is not None) != 1 or len(paths) != (0 if thumbnail is None else 2):
        raise UsageError("give --install, --remove, or --thumbnail SIZE IN OUT")
    if thumbnail is not None:
        write_thumbnail(paths[0], paths[1], thumbnail, max_pixels)
        return
    for path, text in _texts(install).items():
        names.make_folder(str(path.parent))
        if text:
            atomic.write_atomic(path, text.encode("utf-8", "surrogateescape"), force=True)
        else:
            _unlink(path)
        streams.write_text(f"{'wrote' if text else 'removed'} {shown(str(path))}\n")
    program = shutil.which("update-mime-database")
    if program is None:
        streams.complain("note: update-mime-database is not installed: the MIME type counts once it has run")
    else:
        subprocess.run([program, str(_data() / "mime")], check=False, capture_output=True)


def _data() -> Path:
    """The user's folder for data (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_DATA_HOME", "")
    return Path(given) if os.path.isabs(given) else Path.home() / ".local/share"


def _texts(install: bool) -> dict[Path, str]:
    """What each file is to hold; nothing for one that is to go."""
    magic = Path.home() / ".magic"
    try:
        others = magic.read_text(encoding="utf-8", errors="surrogateescape") if magic.exists() else ""
    except OSError as error:
        raise InputError(f"cannot read {shown(str(magic))}: {reason(error)}") from None
    before, found, rest = others.partition(BEGIN)
    others = before + rest.partition(END)[2] if found else others
    if not install:
        return {
            _data() / "mime/packages/vqcodec.xml": "", _data() / "thumbnailers/vqcodec.thumbnailer": "", magic: others,
        }  # fmt: skip
    command = f"{shlex.quote(sys.executable)} -m vqcodec".replace("%", "%%")
    gap = "\n" if others and not others.endswith("\n") else ""
    return {
        _data() / "mime/packages/vqcodec.xml": MIME_TYPE,
        _data() / "thumbnailers/vqcodec.thumbnailer": THUMBNAILER.format(command=command, mime=MIME),
        magic: others + gap + MAGIC,
    }


def _unlink(path: Path) -> None:
    try:
        with suppress(FileNotFoundError):
            path.unlink()
    except OSError as error:
        raise InputError(f"cannot remove {shown(str(path))}: {reason(error)}") from None


def write_thumbnail(source: str, target: str, size: int, max_pixels: int) -> None:
    """Write a PNG whose sides are at most `size` pixels; it decodes at a reduced size where that will do.

    Raises:
        VqcError: as `api.decode`, and for an output that cannot be written.
    """
    import io

    from vqcodec import api
    from vqcodec.options import SCALES

    with streams.about(source):
        facts = api.info(source)
        largest = max(facts["width"], facts["height"])
        scale = max(scale for scale in SCALES if scale == 1 or largest >= scale * size)
        picture = api.decode(source, scale=scale, max_pixels=max_pixels)
    picture.thumbnail((size, size))
    out = io.BytesIO()
    picture.save(out, "PNG")
    streams.write(target, out.getvalue(), force=True)
