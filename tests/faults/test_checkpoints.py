"""Damaged and wrong files for -pretrained and -resume, and weights that are NaN."""

from __future__ import annotations

import gzip
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from beit.checkpoint.files import read, read_checkpoint, write, write_checkpoint
from beit.train.run import run as run_here
from tests.containers.container_writers import torch_zip
from tests.faults.harness import LATEST, Row, finish, message, succeed
from tests.tiny import command, different_weights, tiny_config


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "run"
    succeed(command("main_single_gpu.py", data, output, TRAIN__NUM_EPOCHS=3), output)
    return output


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    return bytes(changed)


BAD = {
    "missing": (None, ""),
    "a folder": ("folder", ""),
    "zero bytes": (lambda content, folder: b"", "empty (0 bytes)"),
    "zeros": (lambda content, folder: bytes(5000), "filled with zeros"),
    "cut at 50 %": (lambda content, folder: content[: len(content) // 2], ""),
    "last byte gone": (lambda content, folder: content[:-1], ""),
    "one bit flipped": (lambda content, folder: flipped(content), "checksum"),
    "HTML": (lambda content, folder: b"<!DOCTYPE html><html>404</html>", "a web page"),
    "git-lfs pointer": (lambda content, folder: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs pointer"),
    "gzip": (lambda content, folder: gzip.compress(content), "gzip-compressed"),
    "a pickle that runs code": (lambda content, folder: pickle.dumps({"model": Payload(folder / "ran")}), ""),
    "a torch file that runs code": (lambda content, folder: torch_zip(b"raw:" + pickle.dumps(Payload(folder / "ran"), 2)[2:-1]), ""),
    "a text file": (lambda content, folder: b"epoch,loss\n1,2\n", "not a checkpoint of a known form"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("flag", ["PRETRAINED", "RESUME"])
def test_bad_files(data: Path, tmp_path: Path, trained: Path, row: Row, name: str, flag: str) -> None:
    row.fault, row.expected = (
        f"-{flag.lower()} of a file: {name}",
        "one line with the file name and the reason; no code from the file runs",
    )
    change, reason = BAD[name]
    file = tmp_path / "bad.pdparams"
    if change == "folder":
        file.mkdir()
    elif change is not None:
        file.write_bytes(change((trained / LATEST).read_bytes(), tmp_path))
    config = tiny_config(data, tmp_path / "run", **{f"MODEL__{flag}": str(file)})
    with pytest.raises((ValueError, OSError)) as caught:
        run_here(config)
    said = str(caught.value)
    assert str(file) in said and reason in said and "\n" not in said, said
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run" / LATEST).exists()
    row.seen = said.replace(str(tmp_path), "…")


@pytest.mark.parametrize("flag", ["pretrained", "resume"])
def test_bad_file_through_the_command(data: Path, tmp_path: Path, trained: Path, row: Row, flag: str) -> None:
    row.fault, row.expected = f"a flipped bit through -{flag}, the command", "status 2 and one line"
    file = tmp_path / "bad.pdparams"
    file.write_bytes(flipped((trained / LATEST).read_bytes()))
    status, text, row.seconds = finish(
        command("main_single_gpu.py", data, tmp_path / "run", f"-{flag}={file}"), tmp_path / "run"
    )
    assert status == 2 and str(file) in message(text) and "Traceback" not in text, text[-1500:]
    row.seen = message(text)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_fall_back_to_an_older_checkpoint_to_an_older_checkpoint(
    data: Path, tmp_path: Path, trained: Path, row: Row, damage: str
) -> None:
    row.fault, row.expected = (
        f"-resume auto, latest.pdparams is {damage}",
        "the previous checkpoint is used and the log says so; the same bytes as an uninterrupted run",
    )
    output = tmp_path / "run"
    output.mkdir()
    for file in trained.iterdir():
        if file.is_file() and not file.name.startswith(("model", "best", "epoch_0003")):
            (output / file.name).write_bytes(file.read_bytes())
    content = (output / LATEST).read_bytes()
    (output / LATEST).write_bytes({"cut": content[:-100], "flipped": flipped(content), "empty": b""}[damage])
    text = succeed(command("main_single_gpu.py", data, output, "-resume=auto", TRAIN__NUM_EPOCHS=3), output)
    said = next(line for line in text.splitlines() if "The checkpoint before it is taken" in line)
    assert different_weights(trained, output) == []
    row.seen = said.replace(str(output), "…") + "; bytes equal"


def test_every_checkpoint_is_damaged(data: Path, tmp_path: Path, trained: Path, row: Row) -> None:
    row.fault, row.expected = (
        "-resume auto, every kept checkpoint is damaged",
        "status 2, names the last one; no new run starts over them",
    )
    output = tmp_path / "run"
    output.mkdir()
    for file in trained.glob("*.pdparams"):
        (output / file.name).write_bytes(flipped(file.read_bytes()))
    status, text, row.seconds = finish(command("main_single_gpu.py", data, output, "-resume=auto"), output)
    assert status == 2 and "Traceback" not in text and "step 1/" not in text, text[-1500:]
    row.seen = message(text).replace(str(output), "…")


OTHERS = {
    "weights instead of a training state": ({"MODEL__RESUME": "model"}, "-pretrained|checksum"),
    "another depth": ({"MODEL__DEPTH": 3}, "is of another model than the config: missing blocks.2"),
    "another width": ({"MODEL__EMBED_DIM": 48}, "is of another model than the config"),
    "another class count": ({"MODEL__NUM_CLASSES": 4}, "is of another model than the config"),
    "another task: pre-training": ({"TASK": "pretrain"}, ""),
    "another seed": ({"SEED": 9}, "SEED 0 -> 9"),
    "a checkpoint without the moving average": ({"TRAIN__MODEL_EMA": True}, "has no moving average"),
    "other frozen layers": ({"TRAIN__FREEZE_LAYERS": 2}, "optimizer state"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run(data: Path, tmp_path: Path, trained: Path, row: Row, name: str) -> None:
    row.fault, row.expected = f"-resume of {name}", "refused; the message states the difference"
    keys, reason = OTHERS[name]
    file = trained / ("model.pdparams" if keys.get("MODEL__RESUME") else LATEST)
    with warnings.catch_warnings(), pytest.raises((ValueError, OSError)) as caught:
        warnings.simplefilter("ignore")
        run_here(tiny_config(data, tmp_path / "run", **(keys | {"MODEL__RESUME": str(file)})))
    said = str(caught.value)
    assert "\n" not in said
    assert any(part.lower() in said.lower() for part in reason.split("|")), said
    row.seen = said.replace(str(trained), "…")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_nan(data: Path, tmp_path: Path, trained: Path, row: Row, value: float) -> None:
    row.fault, row.expected = (
        f"one weight of a checkpoint is {value}, through -eval -pretrained",
        "refused; the message names the weight; no metric is printed",
    )
    tree = {name: array.copy() for name, array in read(trained / "model.pdparams").tree.items()}
    tree["blocks.1.mlp.fc1.weight"][0, 0] = value
    write(tmp_path / "bad.pdparams", tree)
    status, text, row.seconds = finish(
        command(
            "main_single_gpu.py", data, tmp_path / "run", "-eval", f"-pretrained={tmp_path / 'bad.pdparams'}"
        ),
        tmp_path / "run",
    )
    assert status == 2 and "NaN or infinity in 1 tensors, first blocks.1.mlp.fc1.weight" in text, text[-1500:]
    assert "top1" not in text and "Traceback" not in text
    row.seen = message(text).replace(str(tmp_path), "…")


def test_altered_after_writing(data: Path, tmp_path: Path, trained: Path, row: Row) -> None:
    row.fault, row.expected = (
        "a training state whose step was changed by hand",
        "accepted only if written again with a new checksum",
    )
    state = read_checkpoint(trained / LATEST)
    write_checkpoint(tmp_path / "same.pdparams", state)
    assert read_checkpoint(tmp_path / "same.pdparams")["step"] == state["step"]
    content = (tmp_path / "same.pdparams").read_bytes()
    place = content.index(b"step")
    altered = bytearray(content)
    altered[place + 7] ^= 3
    (tmp_path / "same.pdparams").write_bytes(bytes(altered))
    with pytest.raises(ValueError, match="checksum|damaged") as caught:
        run_here(tiny_config(data, tmp_path / "run", MODEL__RESUME=str(tmp_path / "same.pdparams")))
    row.seen = str(caught.value).replace(str(tmp_path), "…")
