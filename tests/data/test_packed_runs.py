"""Whole runs on packed images: the same losses, weights and metrics as on files, also after a resume and in workers."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from beit.parallel.stop import StopVote
from beit.train.run import run
from beit.train.state import StoppedError
from tests.data.packed import write_tar, write_zip
from tests.tiny import command, different_weights, losses, run_command, tiny_config, write_dataset


@pytest.fixture(scope="module")
def on_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The data set as files and lists, which holds the output folder `run` of a run on it; and the metrics of the run."""
    root = write_dataset(tmp_path_factory.mktemp("data"))
    return root, run(tiny_config(root, root / "run"))


def listed(root: Path, split: str) -> list[tuple[str, str, bytes]]:
    """Name, label and bytes of each image of a list."""
    lines = (root / f"{split}_list.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines]
    return [(name, label, (root / name).read_bytes()) for name, label in pairs]


def pack(files: Path, root: Path, form: str) -> str:
    """Write the data set in another form; returns its DATA.DATASET."""
    root.mkdir()
    for split in ("train", "val"):
        rows = listed(files, split)
        if form in ("tar", "zip"):
            lines = (files / f"{split}_list.txt").read_text(encoding="utf-8").replace("my images", split)
            (root / f"{split}_list.txt").write_text(lines, encoding="utf-8")
            members = {name.replace("my images", split): data for name, _, data in rows}
            (write_tar if form == "tar" else write_zip)(root / f"{split}.{form}", members)
        elif form == "webdataset":
            for shard, start in enumerate(range(0, len(rows), 7)):
                members = {}
                for number, (_, label, data) in enumerate(rows[start : start + 7]):
                    members |= {f"{number}.png": data, f"{number}.cls": label.encode()}
                write_tar(root / f"{split}-{shard}.tar", members)
        else:
            import pyarrow
            import pyarrow.parquet

            images = [{"bytes": data, "path": name} for name, _, data in rows]
            table = pyarrow.table({"image": images, "label": [int(label) for _, label, _ in rows]})
            pyarrow.parquet.write_table(table, root / f"{split}.parquet", row_group_size=5)
    return "imagenet2012" if form in ("tar", "zip") else form


@pytest.mark.slow
def test_two_ranks_evaluate_and_train_as_on_files(
    on_files: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    files, _ = on_files
    dataset = pack(files, tmp_path / "data", "webdataset")
    for data, name, keys in ((files, "files", {}), (tmp_path / "data", "packed", {"DATA__DATASET": dataset})):
        result = run_command(
            command("main_multi_gpu.py", data, tmp_path / name, "-nprocs=2", DATA__BATCH_SIZE=2, **keys)
        )
        assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "files") == losses(tmp_path / "packed")
    assert different_weights(tmp_path / "files", tmp_path / "packed") == []
    shown = [(tmp_path / name / "log.txt").read_text(encoding="utf-8") for name in ("files", "packed")]
    first, second = (re.findall(r"top1 \S+  top5 \S+  loss \S+", text) for text in shown)
    assert first == second and len(first) == 2


needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow (extra: parquet)"
)


@pytest.mark.parametrize(
    ("form", "workers"),
    [("tar", 0), ("zip", 0), ("webdataset", 2), pytest.param("parquet", 2, marks=needs_pyarrow)],
)
def test_a_run_that_is_resumed_ends_in_the_bytes_of_a_run_on_files(
    on_files: tuple[Path, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    workers: int,
) -> None:
    files, expected = on_files
    keys = {"DATA__DATASET": pack(files, tmp_path / "data", form), "DATA__NUM_WORKERS": workers}
    calls = []

    def passed(self: StopVote) -> bool:
        calls.append(1)
        self.requested = 15
        return len(calls) == 4

    with monkeypatch.context() as patch:
        patch.setattr(StopVote, "passed", passed)
        with pytest.raises(StoppedError, match="after step 4"):
            run(tiny_config(tmp_path / "data", tmp_path / "run", **keys))
    metrics = run(tiny_config(tmp_path / "data", tmp_path / "run", MODEL__RESUME="auto", **keys))
    assert metrics["count"] == 10
    assert all(metrics[name] == expected[name] for name in ("top1", "top5", "loss"))
    assert losses(tmp_path / "run") == losses(files / "run")
    assert different_weights(tmp_path / "run", files / "run") == []
