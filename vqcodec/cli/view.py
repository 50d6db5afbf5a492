# SPDX-License-Identifier: MIT
"""`vqcodec view`: .vqc files on a page, from a server on this machine alone, or written as a folder for any server."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

import click

from vqcodec.cli import names, options, streams
from vqcodec.cli.gallery import BROWSER, FILES, LIST, PAGE, SERVER, Gallery
from vqcodec.cli.streams import shown
from vqcodec.errors import InputError, LimitError, UsageError, VqcError
from vqcodec.messages import on_one_line, reason
from vqcodec.options import DecodeOptions, most_file_bytes

HOST = "127.0.0.1"
TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript",
    ".json": "application/json", ".wasm": "application/wasm", ".png": "image/png", ".vqc": "image/x-vqc",
}  # fmt: skip
OTHER_TYPE = "application/octet-stream"
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # both: threads of WebAssembly need an isolated page
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self' blob: data:; script-src 'self' blob: 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'",
}


@click.command()
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(readable=False))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port of the server; 0 (default): any free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@click.option("--html", "folder", metavar="DIR", help="Write the page to a folder, for any web server.")
@click.option(
    "--runtime", metavar="DIR",
    help="Folder of onnxruntime-web (npm install onnxruntime-web), to decode in the browser.",
)  # fmt: skip
@options.force
@options.threads
@options.model
@options.max_pixels
def view(
    path: str, port: int, no_browser: bool, folder: str | None, runtime: str | None, force: bool, threads: int,
    model: str | None, max_pixels: int,
) -> None:  # fmt: skip
    """Show a .vqc file, or all those in a folder and its subfolders, in the browser.

    A server for this machine only decodes them. With onnxruntime-web, the browser decodes by itself. --html writes
    a folder for any web server instead; without onnxruntime-web, it also holds PNG files.

    \b
    vqcodec view photo.vqc
    vqcodec view archive/
    vqcodec view archive/ --html gallery/ --runtime node_modules/onnxruntime-web
    """
    decoding = DecodeOptions(threads=threads, model=model, max_pixels=max_pixels)
    gallery, failures = Gallery.of(path, runtime, decoding)
    for _, message in failures:
        streams.complain(message)
    if folder is not None:
        if port or no_browser:
            raise UsageError("--html starts no server: leave out --port and --no-browser")
        write_folder(gallery, folder, force)
    else:
        serve(gallery, port, browser=not no_browser)


def write_folder(gallery: Gallery, folder: str, force: bool) -> None:
    """The page with all that it needs, into a folder.

    Raises:
        OutputExistsError: there is a page, and `force` is false.
        InputError: it cannot be written.
    """
    names.make_folder(folder)
    page = Path(folder) / PAGE
    streams.check_output(str(page), force)
    files = [(address, path.read_bytes()) for address, path in gallery.static().items() if address != PAGE]
    decoder = FILES if gallery.runtime is None else BROWSER
    _put(folder, {**dict(files), LIST: gallery.listing(decoder)})
    for number, (name, file, png) in enumerate(gallery.places()):
        try:
            data = gallery.read(number)
            _put(folder, {file: data, **({png: gallery.png(data)} if decoder == FILES else {})})
        except VqcError as error:
            if isinstance(error, InputError) and str(folder) in str(error):
                raise
            streams.complain(f"{shown(name)}: {error}")
    _put(folder, {PAGE: gallery.static()[PAGE].read_bytes()})  # last: where it is, all is
    who = "decoded by the browser" if decoder == BROWSER else "as PNG beside the .vqc files, for want of --runtime"
    count = len(gallery.pictures)
    streams.write_text(f"{on_one_line(str(page))}: {count} picture{'s' * (count != 1)}, {who}\n")


def _put(folder: str, files: dict[str, bytes]) -> None:
    for address, data in files.items():
        path = Path(folder) / address
        names.make_folder(str(path.parent))
        streams.write(str(path), data, force=True)


# ---- the server ------------------------------------------------------------------------------------------------------


def serve(gallery: Gallery, port: int, *, browser: bool) -> None:
    """Serve the page until the user interrupts it.

    Raises:
        InputError: the port is taken.
    """
    server = make_server(gallery, port)
    address = f"http://{HOST}:{server.server_address[1]}/"
    streams.write_text(f"{address} shows {on_one_line(gallery.title)}; end with Ctrl+C\n")
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


def make_server(gallery: Gallery, port: int = 0) -> ThreadingHTTPServer:
    """A server of the page on this machine alone, not yet started.

    Raises:
        InputError: the port is taken.
    """
    handler = type(
        "Handler", (_Handler,), {"gallery": gallery, "files": gallery.static(), "decoding": threading.Lock()}
    )
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise InputError(f"cannot serve on port {port}: {reason(error)}") from None
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """Answers for the addresses of a gallery, and nothing else."""

    gallery: Gallery
    files: dict[str, Path]
    decoding: threading.Lock  # one picture at a time: each takes all threads
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vqcodec", ""
    timeout = 60

    def do_GET(self) -> None:
        """A file of the page."""
        url = urlsplit(self.path)
        self._answer(
            lambda: self._content(unquote_to_bytes(url.path).decode("utf-8", "surrogateescape")[1:], url.query)
        )

    def do_POST(self) -> None:
        """`decode`: a .vqc file that was dropped on the page -> PNG."""
        self.close_connection = True  # the body may be left unread
        self._answer(self._decoded)

    def _answer(self, content: Callable[[], tuple[str, bytes]]) -> None:
        try:
            if self.headers.get("Host") not in self._names():  # another site's name for this machine (DNS rebinding)
                raise _Refused(HTTPStatus.FORBIDDEN, "this server answers to its own name alone")
            kind, body = content()
            status = HTTPStatus.OK
        except _Refused as refused:
            status, kind, body = refused.status, "text/plain; charset=utf-8", str(refused).encode()
        except VqcError as error:
            status, kind = HTTPStatus.UNPROCESSABLE_ENTITY, "text/plain; charset=utf-8"
            body = on_one_line(str(error)).encode("utf-8", "replace")
        except MemoryError:
            status, kind, body = HTTPStatus.UNPROCESSABLE_ENTITY, "text/plain; charset=utf-8", b"not enough memory"
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def _names(self) -> set[str]:
        assert isinstance(self.server, ThreadingHTTPServer)
        return {f"{name}:{self.server.server_address[1]}" for name in (HOST, "localhost")}

    def _content(self, address: str, query: str) -> tuple[str, bytes]:
        """Media type and bytes of what stands at an address."""
        address = address or PAGE
        kind = TYPES.get(Path(address).suffix.lower(), OTHER_TYPE)
        if address in self.files:
            return kind, self.files[address].read_bytes()
        if address == LIST:
            return kind, self.gallery.listing(SERVER if self.gallery.runtime is None else BROWSER)
        for number, (_, file, png) in enumerate(self.gallery.places()):
            if address == file:
                return kind, self.gallery.read(number)
            if address == png:
                most = parse_qs(query).get("most", [""])[0]
                with self.decoding:
                    return kind, self.gallery.png(self.gallery.read(number), int(most) if most.isdecimal() else None)
        raise _Refused(HTTPStatus.NOT_FOUND, f"there is no {quote(address, errors='replace')}")

    def _decoded(self) -> tuple[str, bytes]:
        if self.path != "/decode":
            raise _Refused(HTTPStatus.NOT_FOUND, "only decode takes a file")
        if self.headers.get("Origin") not in {f"http://{name}" for name in self._names()}:
            raise _Refused(HTTPStatus.FORBIDDEN, "only this server's page may send files")
        length = self.headers.get("Content-Length", "")
        limit = most_file_bytes(self.gallery.options.max_pixels)
        if not length.isdecimal() or int(length) > limit:
            raise LimitError(f"a .vqc file of a picture within --max-pixels has at most {limit} bytes")
        data = self.rfile.read(int(length))
        with self.decoding:
            return TYPES[".png"], self.gallery.png(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: stderr is for what went wrong."""


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
