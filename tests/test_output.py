# SPDX-License-Identifier: MIT
"""`vqcodec.cli.atomic`: whole files or none, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vqcodec.cli.atomic import check_writable, write_atomic
from vqcodec.errors import InputError, OutputExistsError

OLD, NEW = b"the old file", b"the new one, which is longer"
posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions, links and devices of POSIX")


def failing(code: int | type[BaseException]) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code)) if isinstance(code, int) else code()

    return fail


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("data", [b"", NEW, bytes(3_000_000)])
def test_a_new_file(tmp_path: Path, data: bytes, force: bool) -> None:
    path = tmp_path / "out.vqc"
    check_writable(path, force)
    assert names(tmp_path) == []
    write_atomic(path, data, force=force)
    assert path.read_bytes() == data
    assert names(tmp_path) == ["out.vqc"]


def test_a_bare_name_goes_into_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable("out.vqc", False)
    write_atomic("out.vqc", NEW, force=False)
    assert (tmp_path / "out.vqc").read_bytes() == NEW


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "out.vqc"
    path.write_bytes(OLD)
    for attempt in (lambda: check_writable(path, False), lambda: write_atomic(path, NEW, force=False)):
        with pytest.raises(OutputExistsError, match=r"out\.vqc exists already") as caught:
            attempt()
        assert caught.value.exit_code == 6
    assert path.read_bytes() == OLD
    check_writable(path, True)
    write_atomic(path, NEW, force=True)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["out.vqc"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path = tmp_path / "out.vqc"
    fsync = os.fsync

    def someone_else_is_faster(handle: int) -> None:
        path.write_bytes(OLD)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", someone_else_is_faster)
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    with pytest.raises(OutputExistsError):
        write_atomic(path, NEW, force=False)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["out.vqc"]


def test_of_many_writers_without_force_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "out.vqc"
    won: list[int] = []
    lost: list[int] = []

    def write(number: int) -> None:
        try:
            write_atomic(path, bytes([number]) * 100_000, force=False)
            won.append(number)
        except OutputExistsError:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert path.read_bytes() == bytes(won) * 100_000
    assert names(tmp_path) == ["out.vqc"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    path = tmp_path / "out.vqc"
    write_atomic(path, NEW, force=False)
    assert path.read_bytes() == NEW
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    with pytest.raises(InputError):
        write_atomic(tmp_path / "second.vqc", NEW, force=False)
    assert names(tmp_path) == ["out.vqc"]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, KeyboardInterrupt, SystemExit, MemoryError])
def test_any_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int | type[BaseException]
) -> None:
    path = tmp_path / "out.vqc"
    force = step != "link"
    if force:
        path.write_bytes(OLD)
    before = names(tmp_path)
    monkeypatch.setattr(os, step, failing(code))
    expected = InputError if isinstance(code, int) else code
    with pytest.raises(expected) as caught:
        write_atomic(path, NEW, force=force)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    assert not force or path.read_bytes() == OLD


def test_a_disk_that_fills_up_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.vqc"
    path.write_bytes(OLD)
    write, written = os.write, 0

    def a_little(handle: int, data: memoryview) -> int:
        nonlocal written
        if written >= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += write(handle, data[:5])
        return 5

    monkeypatch.setattr(os, "write", a_little)
    with pytest.raises(InputError, match=r"cannot write .*out\.vqc: the disk is full"):
        write_atomic(path, NEW, force=True)
    assert written == 10
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["out.vqc"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
    write_atomic(tmp_path / "out.vqc", NEW, force=False)
    assert (tmp_path / "out.vqc").read_bytes() == NEW


def test_the_data_is_synced_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda old, new: (steps.append("replace"), replace(old, new)))
    write_atomic(tmp_path / "out.vqc", NEW, force=True)
    assert steps[:2] == ["fsync", "replace"]


@posix_only
def test_sigterm_in_a_real_process(tmp_path: Path) -> None:
    path = tmp_path / "out.vqc"
    path.write_bytes(OLD)
    script = (
        "import os, signal, sys, time\n"
        "from vqcodec.cli.atomic import write_atomic\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "os.fsync = lambda handle: (print('half way', flush=True), time.sleep(30))\n"
        f"write_atomic({str(path)!r}, b'new', force=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ})
    assert process.stdout is not None
    assert process.stdout.readline() == b"half way\n"
    assert len(names(tmp_path)) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    process.stdout.close()
    assert names(tmp_path) == ["out.vqc"]
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("force", [False, True])
def test_places_where_nothing_can_be_written(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "missing" / "out.vqc": "missing does not exist",
        tmp_path / "folder": "it is a folder",
        str(tmp_path / "new") + "/": "it is a folder",
        tmp_path / "file" / "out.vqc": "is not a folder",
        tmp_path / ("x" * 300): "name is too long",
        "": "it is a folder",
        "a\0b": "null",
    }
    for path, reason in cases.items():
        for attempt in (lambda p=path: check_writable(p, force), lambda p=path: write_atomic(p, NEW, force=force)):
            with pytest.raises(InputError, match=reason) as caught:
                attempt()
            assert caught.value.exit_code == 3
            assert str(caught.value).isprintable()
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


@posix_only
def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda *_: False)
        monkeypatch.setattr(os, "open", failing(errno.EACCES))
    else:
        folder.chmod(0o500)
    for attempt in (check_writable, lambda path, force: write_atomic(path, NEW, force=force)):
        with pytest.raises(InputError, match="no permission"):
            attempt(folder / "out.vqc", False)
    folder.chmod(0o700)
    assert names(folder) == []


@posix_only
@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_is_written_through(tmp_path: Path, dangling: bool, relative: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.vqc", tmp_path / "link.vqc"
    link.symlink_to(Path("elsewhere/real.vqc") if relative else target)
    if not dangling:
        target.write_bytes(OLD)
        with pytest.raises(OutputExistsError):
            write_atomic(link, NEW, force=False)
        assert target.read_bytes() == OLD
    check_writable(link, not dangling)
    write_atomic(link, NEW, force=not dangling)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert names(tmp_path) == ["elsewhere", "link.vqc"]
    assert names(tmp_path / "elsewhere") == ["real.vqc"]


@posix_only
def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for force in (False, True):
        with pytest.raises(InputError, match="circle"):
            write_atomic(tmp_path / "a", NEW, force=force)
    assert (tmp_path / "a").is_symlink()


@posix_only
@pytest.mark.parametrize("links", [True, False])
def test_permissions_of_a_new_file_follow_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    for mask in (0o022, 0o077, 0o002):
        path = tmp_path / f"{mask:o}"
        previous = os.umask(mask)
        try:
            write_atomic(path, NEW, force=False)
        finally:
            os.umask(previous)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_permissions_of_a_replaced_file_stay(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out.vqc"
    path.write_bytes(OLD)
    path.chmod(mode)
    write_atomic(path, NEW, force=True)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix_only
def test_secret_data_never_lies_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.vqc"
    path.write_bytes(OLD)
    path.chmod(0o600)
    modes: list[int] = []
    write = os.write

    def look(handle: int, data: memoryview) -> int:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return write(handle, data)

    monkeypatch.setattr(os, "write", look)
    write_atomic(path, NEW, force=True)
    assert modes == [0o600]


@posix_only
def test_devices_and_pipes_are_written_to_and_stay(tmp_path: Path) -> None:
    check_writable("/dev/null", False)
    write_atomic("/dev/null", NEW, force=True)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomic(pipe, NEW, force=False)
    reader.join(timeout=20)
    assert received == [NEW]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_device() -> None:
    with pytest.raises(InputError, match="/dev/full: the disk is full"):
        write_atomic("/dev/full", NEW, force=False)


def test_odd_names(tmp_path: Path) -> None:
    for name in ("with space", "new\nline", "ünïcode", "-dash", "." + "x" * 200):
        write_atomic(tmp_path / name, NEW, force=False)
        assert (tmp_path / name).read_bytes() == NEW
        with pytest.raises(OutputExistsError) as caught:
            write_atomic(tmp_path / name, NEW, force=False)
        assert "\n" not in str(caught.value)


def test_the_temporary_file_lies_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(names(tmp_path)), fsync(handle)))
    write_atomic(tmp_path / "out.vqc", NEW, force=False)
    assert len(seen[0]) == 1
    assert seen[0][0].startswith(".vqcodec-")
