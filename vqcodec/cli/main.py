# SPDX-License-Identifier: MIT
"""The command line: from the first argument to the exit code. Each command lives in a module of its own.

A command's module is imported when it is asked for, and what the module needs may be heavy: `--help` and a mistyped
command must not wait for NumPy. Whatever goes wrong ends as one line on stderr and an exit code (errors.py).
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from vqcodec import __version__, memory
from vqcodec.cli import processes, streams
from vqcodec.errors import EXIT_INTERRUPTED, UsageError

COMMANDS = {  # name -> module, what it does in a line; the most used first
    "compress": ("vqcodec.cli.convert", "Compress pictures to .vqc files."),
    "decompress": ("vqcodec.cli.convert", "Restore pictures from .vqc files."),
    "info": ("vqcodec.cli.info", "Describe .vqc files, and check that they are intact."),
    "compare": ("vqcodec.cli.compare", "Compare vqcodec, JPEG and AVIF on a page with a slider."),
    "view": ("vqcodec.cli.view", "Show .vqc files in the browser."),
    "demo": ("vqcodec.cli.demo", "Compress a bundled photograph, beside JPEG."),
    "train": ("vqcodec.cli.main", "Train or fine-tune a model (needs torch)."),
    "tokens": ("vqcodec.cli.tokens", "Convert pictures to codebook indices (NumPy), and back."),
    "sample": ("vqcodec.cli.sample", "Draw pictures from the model, or variations of a picture."),
    "denoise": ("vqcodec.cli.denoise", "Remove noise from a picture."),
    "repair": ("vqcodec.cli.denoise", "Fill in scratches and holes of a picture."),
    "archive": ("vqcodec.cli.ray_archive", "Compress folders or buckets on a Ray cluster."),
    "desktop": ("vqcodec.cli.desktop", "Install thumbnails and a MIME type for .vqc files."),
    "completion": ("vqcodec.cli.main", "Print shell completion for bash, zsh or fish."),
}
OWN_THREADS = ("archive", "train")  # Ray and torch decide for themselves
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COMPLETION_VARIABLE = "_VQCODEC_COMPLETE"
EXIT_TERMINATED = 143


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


def program() -> NoReturn:
    """The command line as a process of its own.

    Python's own end takes a tenth of the time of a small picture: it takes modules and networks apart, one by one. When
    all is written, and no other thread or process is at work, the system does it faster.
    """
    code = main()
    if threading.active_count() == 1 and "multiprocessing" not in sys.modules:
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads: Python's own end says so
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
            os._exit(code)
    sys.exit(code)


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
            return UsageError.exit_code, f"{_said(error)} (see {command} --help)"
        case _:
            return processes.failure(error)


def _said(error: click.ClickException) -> str:
    """Click's sentence in the way of our own."""
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument):
        return (
            f"nothing to work on: {error.param.make_metavar(error.ctx) if error.ctx else error.param.name} is missing"
        )
    sentence = error.format_message().rstrip(".")
    return sentence[:1].lower() + sentence[1:]


# ---- the commands ----------------------------------------------------------------------------------------------------


class LazyGroup(click.Group):
    """The commands of `COMMANDS`, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, the most used first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in OWN_THREADS:  # NumPy's libraries read it when they are loaded (threads.py)
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
            memory.give_back()
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is asked for; a name that nearly is one's is met with that."""
        near = [] if args[0] in COMMANDS or ctx.resilient_parsing else get_close_matches(args[0], COMMANDS)
        if near:
            ctx.fail(f"no such command {args[0]!r}; did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, without importing any, and the group's own options."""
        fitting = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name][1]) for name in fitting]
        return items + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """A learned image codec: compresses photographs to small .vqc files.

    \b
    vqcodec compress photo.png photo.vqc
    vqcodec decompress photo.vqc back.png
    vqcodec compress -r -j 0 photos/ -o archive/
    vqcodec COMMAND --help

    Exit codes: 0 ok, 2 usage, 3 unreadable input or unwritable output, 4 damaged .vqc, 5 model not found, 6 output
    exists, 7 limit exceeded, 8 damaged .vqc restored in part.
    """


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands, options and file names in SHELL.

    \b
    vqcodec completion bash >> ~/.bashrc
    vqcodec completion zsh >> ~/.zshrc
    vqcodec completion fish > ~/.config/fish/completions/vqcodec.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    streams.write_text(kind(commands, {}, "vqcodec", COMPLETION_VARIABLE).source() + "\n")


@commands.command(
    short_help=COMMANDS["train"][1],
    add_help_option=False, context_settings={"ignore_unknown_options": True},
)  # fmt: skip
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a model on your own pictures (needs torch: pip install 'vqcodec[train]')."""
    from vqcodec.train.arguments import missing, parse

    options = parse(arguments)
    try:
        from vqcodec.train.cli import run
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name in ("", "vqcodec"):
            raise
        raise missing(name) from None
    run(options)
