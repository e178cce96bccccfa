from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from beit.checkpoint.files import read_checkpoint, write_checkpoint
from beit.files import _HOST, lock, map_array, replacing, require_writable, sha256_of

OLD = {"step": 1, "w": np.zeros(3)}
NEW = {"step": 2, "w": np.ones(3)}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "latest.pdparams", OLD)
    return tmp_path / "latest.pdparams"


def assert_untouched(path):
    assert read_checkpoint(path)["step"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_the_new_file_replaces_the_old_one(path):
    write_checkpoint(path, NEW)
    assert read_checkpoint(path)["step"] == 2
    assert list(path.parent.iterdir()) == [path]


def test_permissions_are_those_of_a_new_file(path):
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_what_cannot_be_written_is_refused_before_the_work(path, monkeypatch):
    for target in (path, path.with_name("new")):
        require_writable(target)
    assert_untouched(path)
    with pytest.raises(
        FileNotFoundError, match=r"cannot write .*b\.npz: its folder does not exist; create .*/a first"
    ):
        require_writable(path.parent / "a" / "b.npz")
    with pytest.raises(OSError, match="cannot write .*: it is a folder; name a file"):
        require_writable(path.parent)

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(
        OSError, match=r"cannot write .*latest\.pdparams: Read-only file system; name a file in"
    ) as e:
        require_writable(path)
    assert e.value.errno == errno.EROFS


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_keeps_the_previous_file(path, monkeypatch, where):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"fsync": (os, "fsync", full), "replace": (Path, "replace", full)}[where])
    with pytest.raises(
        OSError, match="cannot write .*latest.pdparams: No space left on device; the previous file is"
    ) as e:
        write_checkpoint(path, NEW)
    assert e.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert_untouched(path)


def test_a_full_disk_while_writing_keeps_the_previous_file(path):
    with pytest.raises(OSError, match="the previous file is untouched"), replacing(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert_untouched(path)


def test_the_error_of_a_file_that_is_written_inside_of_another_names_it_alone(path):
    inner = path.with_name("inner")
    with pytest.raises(OSError) as caught, replacing(path), replacing(inner):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(inner) in str(caught.value) and str(path) not in str(caught.value)
    assert_untouched(path)


def test_a_failed_first_write_leaves_no_file(tmp_path):
    with pytest.raises(OSError, match="no file was left there"), replacing(tmp_path / "m"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_an_interruption_keeps_the_previous_file(path, interruption):
    with pytest.raises(interruption), replacing(path) as file:
        file.write(b"half")
        raise interruption
    assert_untouched(path)


def test_the_error_names_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder does not exist; create .*none first"):
        write_checkpoint(tmp_path / "none" / "m.pdparams", NEW)


def test_the_order_is_write_sync_rename_sync_folder(path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("sync"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda old, new: (steps.append("rename"), replace(old, new))[1])
    write_checkpoint(path, NEW)
    assert steps == ["sync", "rename", "sync"]


def test_a_killed_write_keeps_the_previous_file_and_the_next_write_cleans_up(path):
    code = (
        "import os, signal, sys\n"
        "from beit.files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert killed.returncode == -9
    assert read_checkpoint(path)["step"] == 1
    assert len(list(path.parent.iterdir())) == 2
    write_checkpoint(path, NEW)
    assert list(path.parent.iterdir()) == [path]


def test_files_of_other_programs_are_not_removed(path):
    others = [
        path.with_name(name)
        for name in (
            f".latest.pdparams.{_HOST}.{os.getppid()}.tmp",
            ".latest.pdparams.x.tmp",
            ".latest.pdparams.y.1.tmp",
            ".a.1.tmp",
        )
    ]
    for other in others:
        other.touch()
        os.utime(other, (0, 0))
    write_checkpoint(path, NEW)
    assert all(other.exists() for other in others)


@pytest.mark.parametrize("host", ["0123abcd.", ""])
def test_an_unfinished_file_of_another_machine_stays_for_a_day(path, host):
    """The number of its process can be that of a dead one, or of none, on this machine."""
    other = path.with_name(f".latest.pdparams.{host}{2**22 + 1}.tmp")
    for age, stays in ((60, True), (25 * 3600, False)):
        other.touch()
        os.utime(other, (time.time() - age,) * 2)
        write_checkpoint(path, NEW)
        assert other.exists() == stays


def test_arrays_are_mapped_and_damaged_ones_are_refused(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.arange(6).reshape(2, 3))
    assert map_array(file).tolist() == [[0, 1, 2], [3, 4, 5]]
    whole = file.read_bytes()
    for content in (
        b"",
        whole[:40],
        whole[:-1],
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((( ",
        b"text",
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npy is damaged, it is not a \.npy file of numbers"):
            map_array(file)


def test_a_lock_excludes_others_until_its_handle_is_closed(tmp_path, monkeypatch):
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert lock(first, wait=False) and not lock(second, wait=False)
    os.close(first)
    assert lock(second, wait=True)
    os.close(second)

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert lock(0, wait=True)


def test_sha256_of_a_file(tmp_path):
    content = bytes(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
