"""Truncated, damaged and mistaken files: each gives its contents or an error of one line that says what the file is."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from beit.checkpoint.files import read, read_checkpoint, write, write_checkpoint
from beit.containers.errors import CheckpointError
from tests.containers.container_writers import tensor, torch_legacy, torch_zip

STATE = {"a.weight": np.arange(12, dtype="f4").reshape(3, 4), "b": np.arange(3)}
TENSORS = {"model": {name: tensor(array, name) for name, array in STATE.items()}, "epoch": 3}


def write_flat(path):
    write(path, STATE)
    path.write_bytes(path.read_bytes()[:-78])  # as another program writes it: without the checksum


def write_nested(path):
    write_checkpoint(path, {"model": {name: ("name", array) for name, array in STATE.items()}, "epoch": 3})
    path.write_bytes(path.read_bytes()[:-78])


FORMS = {
    "flat": write_flat,
    "nested": write_nested,
    "zip": lambda path: path.write_bytes(torch_zip(TENSORS)),
    "legacy": lambda path: path.write_bytes(torch_legacy(TENSORS)),
    "safetensors": lambda path: write(path.with_suffix(".safetensors"), STATE, metadata={"a": "b"}),
}


@pytest.fixture(params=FORMS)
def content(request, tmp_path):
    FORMS[request.param](tmp_path / "m.pdparams")
    (path,) = tmp_path.iterdir()
    assert isinstance(read(path).tree, dict)
    return path.read_bytes()


def is_read(path, content):
    path.write_bytes(content)
    try:
        tree = read(path).tree
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return False
    assert isinstance(tree, dict)
    return True


def test_truncated_files_are_errors(tmp_path, content):
    for length in np.random.default_rng(0).integers(0, len(content), 200):
        assert not is_read(tmp_path / "cut", content[:length])


def test_flipped_bytes_give_contents_or_an_error(tmp_path, content):
    rng = np.random.default_rng(1)
    outcomes = set()
    for place, change in zip(rng.integers(0, len(content), 200), rng.integers(1, 256, 200), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= change
        outcomes.add(is_read(tmp_path / "flipped", bytes(flipped)))
    assert False in outcomes


def test_every_flipped_byte_of_a_training_checkpoint_is_noticed(tmp_path):
    path = tmp_path / "latest.pdparams"
    write_checkpoint(path, {"model": STATE, "epoch": 3})
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def image(kind):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"))
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.ones(2))
    return file.getvalue()


def npy():
    file = io.BytesIO()
    np.save(file, np.ones(2))
    return file.getvalue()


OTHER_FILES = {
    "empty": (b"", "empty \\(0 bytes\\).*get it again"),
    "zeros": (bytes(2000), "filled with zeros"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "a web page .*direct link"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs pointer.*git lfs pull"),
    "gzip": (gzip.compress(b"x"), "gzip-compressed; unpack"),
    "png": (image("PNG"), "PNG image"),
    "jpeg": (image("JPEG"), "JPEG image"),
    "tar": (tar(), "tar archive; unpack"),
    "npz": (npz(), "NumPy .npz"),
    "npy": (npy(), "a NumPy array"),
    "text": (b"epoch,loss\n1,2\n", "not a checkpoint of a known form .*b'epoch,lo'"),
    "number": (b"\x80\x04K\x01.", "a pickle of a int, not of named weights"),
    "trailing": (b"\x80\x04}.more", "4 bytes follow the end of the pickle"),
    "other zip": (torch_zip({}).replace(b"data.pkl", b"dada.pkl"), "a zip archive without"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_errors_name_files_that_are_no_checkpoints(tmp_path, kind):
    content, text = OTHER_FILES[kind]
    (tmp_path / "m.pdparams").write_bytes(content)
    for reader in (
        (read, read_checkpoint) if kind not in ("number", "trailing", "npz", "other zip") else (read,)
    ):
        with pytest.raises(CheckpointError, match=f"m.pdparams: .*{text}"):
            reader(tmp_path / "m.pdparams")


def test_directories_and_missing_files_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match="a directory; name a file in it"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.pdparams: no such file; check the path"):
        read(tmp_path / "none.pdparams")


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(table, data=b"", length=None):
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


FORGED = {
    "header of 2**60": (safetensors({"a": entry(0, 4, [1])}, b"1234", 2**60), "header claims"),
    "overlap": (safetensors({"a": entry(0, 4, [1]), "b": entry(2, 6, [1])}, bytes(6)), "tensor b overlaps"),
    "hole": (
        safetensors({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
        "tensor b overlaps another, leaves a hole",
    ),
    "past the end": (safetensors({"a": entry(0, 8, [2])}, bytes(4)), "passes the end"),
    "bytes left": (safetensors({"a": entry(0, 4, [1])}, bytes(8)), "4 bytes behind"),
    "backwards": (safetensors({"a": entry(4, 0, [1])}, bytes(4)), "tensor a"),
    "negative shape": (safetensors({"a": entry(0, 4, [-1, -1])}, bytes(4)), "shape \\[-1, -1\\]"),
    "huge shape": (safetensors({"a": entry(0, 4, [2**62, 2**62])}, bytes(4)), "has 4 bytes"),
    "float shape": (safetensors({"a": entry(0, 4, [1.0])}, bytes(4)), "shape"),
    "many axes": (safetensors({"a": entry(0, 4, [1] * 70)}, bytes(4)), "shape"),
    "dtype": (safetensors({"a": entry(0, 4, [1], "F8_E4M3")}, bytes(4)), "dtype F8_E4M3; known are F64"),
    "offsets": (safetensors({"a": entry(0.0, 4, [1])}, bytes(4)), "no place"),
    "list": (safetensors(b'{"a": 1}'), "not described by dtype"),
    "metadata": (safetensors(b'{"__metadata__": {"a": 1}}'), "table of texts"),
    "nesting": (safetensors(b'{"a":' + b"[" * 100_000), "damaged, or no checkpoint \\(RecursionError"),
    "latin": (safetensors(b'{"\xff": 1}'), "damaged, or no checkpoint \\(UnicodeDecodeError"),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_forged_safetensors_are_refused(tmp_path, forgery):
    content, text = FORGED[forgery]
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=text):
        read(tmp_path / "m.safetensors")


def test_bfloat16_of_safetensors_is_cast_to_float32_and_reported(tmp_path):
    exact = np.array([1.0, -2.5, 2.0**-130], "f4")
    data = (exact.view("u4") >> 16).astype("u2").tobytes()
    (tmp_path / "m.safetensors").write_bytes(safetensors({"a": entry(0, 6, [3], "BF16")}, data))
    contents = read(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(contents.tree["a"], exact)
    assert contents.tree["a"].dtype == np.float32 and contents.dtypes_cast == {"a": "bfloat16"}
