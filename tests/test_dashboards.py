"""Dashboards: what VisualDL, TensorBoard and Weights & Biases show of a run and of its continuation."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from beit import dashboards
from beit.config import dump, get_config, value_of
from beit.dashboards import VISUALDL_FILE, WeightsAndBiases
from beit.logging import RunLog
from beit.schema import SCHEMA
from beit.train.run import run
from tests.tiny import environment, log_of, tiny_config, write_dataset

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
CONFIG = get_config(
    None, ["TRAIN.BASE_LR", 0.5, "TRAIN.SCALE", [0.5, 1.0], "MODEL.NAME", "mine", "AMP", True]
)
CHANGED = {"TRAIN.BASE_LR": 0.5, "TRAIN.SCALE": "(0.5, 1.0)", "MODEL.NAME": "mine", "AMP": "True"}


def write_run(folder, logger, values, *, is_new=True):
    """Log config and image, and a loss by step, as one process does."""
    log = RunLog(folder, 0, stream=io.StringIO())
    log.add_dashboards([logger])
    log.config(dump(CONFIG), {key: value_of(CONFIG, key) for key in SCHEMA})
    if is_new:
        log.image("train/batch", IMAGE, 0)
    for step, value in values.items():
        log.scalars("train", {"loss": value}, step)
    log.scalars("val", {"top1": 10.0 * max(values)}, max(values))
    log.close()


def read_visualdl(folder):
    from visualdl import LogReader

    return LogReader(file_path=str(folder / "visualdl" / VISUALDL_FILE))


@pytest.mark.parametrize("half_record", [b"", b"\x01\x02", struct.pack("<Q", 100) + b"part of it"])
def test_visualdl_after_a_resume(tmp_path, half_record, capsys):
    pytest.importorskip("visualdl", reason="VisualDL is an optional extra")
    write_run(tmp_path, "visualdl", {1: 1.5})
    with (tmp_path / "visualdl" / VISUALDL_FILE).open("ab") as file:
        file.write(half_record)
    write_run(tmp_path, "visualdl", {2: 0.5}, is_new=False)
    reader = read_visualdl(tmp_path)
    assert [(p.id, p.value) for p in reader.get_data("scalar", "train/loss")] == [(1, 1.5), (2, 0.5)]
    assert yaml.safe_load(reader.get_data("text", "config")[0].text.encoded_text_string) == yaml.safe_load(
        dump(CONFIG)
    )
    (shown,) = reader.get_data("image", "train/batch")
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown.image.encoded_image_string)), IMAGE)
    hparam = reader.get_data("hyper_parameters", "hparam")[-1].hparam
    found = {
        entry.name: entry.string_value or entry.float_value or entry.int_value for entry in hparam.hparamInfos
    }
    assert found == CHANGED
    assert [entry.name for entry in hparam.metricInfos] == ["val/top1"]
    assert [path.name for path in (tmp_path / "visualdl").iterdir()] == [VISUALDL_FILE]
    assert capsys.readouterr().out == ""


@pytest.mark.dashboards
def test_tensorboard_after_a_resume_at_an_earlier_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, TENSORS, EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    write_run(tmp_path, "tensorboard", {1: 1.5, 2: 0.75, 3: 0.7})
    write_run(tmp_path, "tensorboard", {2: 0.5, 3: 0.25}, is_new=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {IMAGES: 0, TENSORS: 0})
    events.Reload()
    assert [(p.step, p.value) for p in events.Scalars("train/loss")] == [(1, 1.5), (2, 0.5), (3, 0.25)]
    assert [(p.step, p.value) for p in events.Scalars("val/top1")] == [(3, 30.0)]
    log = RunLog(tmp_path, 0, stream=io.StringIO())
    log.add_dashboards(["tensorboard"])
    log.scalars("eval", {"top1": 5.0}, 0)  # an evaluation into the folder of the run
    log.close()
    events.Reload()
    assert len(events.Scalars("train/loss")) == 3
    (shown,) = events.Images("train/batch")
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown.encoded_image_string)), IMAGE)
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text.removeprefix("```yaml").removesuffix("```")) == yaml.safe_load(dump(CONFIG))
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    found = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert found == CHANGED


def leveldb_records(file):
    """The records of a W&B file: 7 bytes of header, then LevelDB's log format, in blocks of 32 KiB."""
    data, offset, parts = file.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


@pytest.mark.parametrize(("content", "id"), [(None, None), ("", None), ("abc12\n", "abc12")])
def test_weights_and_biases_starts_a_new_run_after_a_half_written_id(tmp_path, monkeypatch, content, id):
    given = []
    started = SimpleNamespace(id="new", define_metric=lambda *names, **options: None)
    wandb = SimpleNamespace(init=lambda **options: given.append(options["id"]) or started)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    if content is not None:
        (tmp_path / "wandb_id.txt").write_text(content)
    WeightsAndBiases(tmp_path)
    assert given == [id]
    assert (tmp_path / "wandb_id.txt").read_text() == "new\n"


@pytest.mark.dashboards
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write_run(tmp_path, "wandb", {1: 1.5, 2: 0.75})
    first = (tmp_path / "wandb_id.txt").read_text()
    write_run(tmp_path, "wandb", {2: 0.5}, is_new=False)
    assert (tmp_path / "wandb_id.txt").read_text() == first
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and all(first.strip() in file.name for file in files)
    points, config = [], {}
    for record in (Record.FromString(data) for file in files for data in leveldb_records(file)):
        item = {
            entry.key or entry.nested_key[0]: json.loads(entry.value_json) for entry in record.history.item
        }
        points += [(item["step"], item["train/loss"])] if "train/loss" in item else []
        for updates in (record.run.config.update, record.config.update):
            config |= {entry.key or entry.nested_key[0]: json.loads(entry.value_json) for entry in updates}
    assert points == [(1, 1.5), (2, 0.75), (2, 0.5)]
    assert config["TRAIN.BASE_LR"] == 0.5 and config["MODEL.DEPTH"] == 12
    (image,) = tmp_path.glob("wandb/offline-run-*/files/media/images/train/*.png")
    np.testing.assert_array_equal(Image.open(image), IMAGE)


@pytest.mark.dashboards
def test_weights_and_biases_without_an_account_is_a_users_mistake(tmp_path):
    """In a process of its own: wandb reads its settings once."""
    code = "import pathlib; from beit.logging import RunLog; RunLog(pathlib.Path('run'), 0).add_dashboards(['wandb'])"
    variables = {name: value for name, value in environment().items() if not name.startswith("WANDB_")}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=variables | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")},
    )  # fmt: skip
    assert re.search(r"ValueError: LOGGERS: wandb does not start: .*WANDB_MODE=offline", result.stderr)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_program_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(dashboards.DASHBOARDS, name, ("no_such_module", dashboards.VisualDl))
    log = RunLog(tmp_path, 0, stream=io.StringIO())
    with pytest.raises(
        ValueError, match=rf'LOGGERS: {name} is not installed; pip install "beit-paddle\[{name}\]"'
    ):
        log.add_dashboards([name])
    log.close()
    extras = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\n{name} = [\n" in extras


def test_a_run_writes_what_the_config_names(tmp_path):
    data = write_dataset(tmp_path / "data")
    keys = {"TRAIN__MAX_STEPS": 1, "TRAIN__WARMUP_EPOCHS": 0}
    run(tiny_config(data, tmp_path / "none", LOGGERS=[], **keys))
    assert not (tmp_path / "none" / "visualdl").exists()
    assert "VisualDL" not in log_of(tmp_path / "none")
    run(tiny_config(data, tmp_path / "run", LOGGERS=["visualdl"], **keys))
    assert read_visualdl(tmp_path / "run").get_tags()["scalar"]
    with pytest.raises(
        ValueError, match=r"LOGGERS = \['csv'\], expected one of 'visualdl', 'tensorboard', 'wandb'"
    ):
        tiny_config(LOGGERS=["csv"])
    with pytest.raises(ValueError, match=r"LOGGERS = \[.*\], expected each of them once"):
        tiny_config(LOGGERS=["visualdl", "visualdl"])  # two writers of one file


@pytest.mark.dashboards
def test_a_run_writes_for_all_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    data = write_dataset(tmp_path / "data")
    keys = {"TRAIN__MAX_STEPS": 1, "TRAIN__WARMUP_EPOCHS": 0}
    run(tiny_config(data, tmp_path / "run", LOGGERS=["visualdl", "tensorboard", "wandb"], **keys))
    assert all((tmp_path / "run" / name).is_dir() for name in ("visualdl", "tensorboard", "wandb"))
