"""Runs with LoRA: their files, the adapter on its base weights, and continuing."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.containers.errors import CheckpointError
from beit.predict.resolve import load_model
from beit.train import resume
from beit.train.run import run
from beit.train.state import StoppedError
from tests.checkpoint import publishers
from tests.tiny import different_weights, load_weights, stop_after, tiny_config

LORA = {"MODEL__LORA__RANK": 2, "MODEL__LORA__TARGETS": ["qkv", "fc1"], "MODEL__LORA__ALPHA": 4.0}
OWN = ("head.", "fc_norm.")


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    run(tiny_config(data, folder, TRAIN__NUM_EPOCHS=1))
    return folder / "model.pdparams"


@pytest.fixture(scope="module")
def trained(data, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    metrics = run(tiny_config(data, folder, MODEL__PRETRAINED=str(base), **LORA))
    return folder, metrics


@pytest.fixture
def moved(trained, tmp_path):
    """The adapter alone, in another folder."""
    return shutil.copy(trained[0] / "adapter.pdparams", tmp_path / "mine.pdparams")


def test_weights_are_merged_under_the_names_of_the_plain_model(base, trained):
    before = load_weights(base)
    for name in ("model.pdparams", "best.pdparams"):
        after = load_weights(trained[0] / name)
        assert after.keys() == before.keys()
        changed = {tensor for tensor, value in after.items() if (value != before[tensor]).any()}
        adapted = {f"blocks.{k}.{layer}.weight" for k in range(2) for layer in ("attn.qkv", "mlp.fc1")}
        assert changed == adapted | {tensor for tensor in before if tensor.startswith(OWN)}


def test_the_adapter_holds_factors_and_head_and_gives_the_merged_weights(trained):
    folder = trained[0]
    for adapter, weights in (("adapter", "model"), ("best_adapter", "best")):
        own = load_weights(folder / f"{adapter}.pdparams")
        assert all(".lora_" in name or name.startswith(OWN) for name in own)
        assert len(own) == 2 * 2 * 3 + 4
        merged = open_checkpoint(folder / f"{adapter}.pdparams").state
        expected = load_weights(folder / f"{weights}.pdparams")
        assert merged.keys() == expected.keys()
        assert all(np.array_equal(merged[name], value) for name, value in expected.items())
    assert (
        "an adapter of model.pdparams, with 16 tensors of its own"
        in open_checkpoint(folder / "adapter.pdparams").info.notes
    )


def test_the_adapter_is_evaluated_like_the_run(data, trained, tmp_path):
    folder, metrics = trained
    for name in ("adapter.pdparams", "latest.pdparams", "epoch_0002.pdparams"):
        config = tiny_config(data, tmp_path, EVAL=True, MODEL__PRETRAINED=str(folder / name), ENGINE="paddle")
        found = run(config)
        assert found["loss"] == pytest.approx(metrics["loss"], rel=1e-5), name
        assert found["top1"] == metrics["top1"], name


@pytest.mark.parametrize("folder", [".", "cache"])
def test_a_moved_base_is_found_beside_the_adapter_or_in_the_cache(base, trained, moved, folder, monkeypatch):
    own = read(moved)
    header = json.loads(own.metadata["adapter"])
    assert header["base"] == header["path"] == str(base)
    gone = json.dumps(header | {"base": "published", "path": "/gone/b.pdparams"})
    write(moved, own.tree, metadata=own.metadata | {"adapter": gone})
    monkeypatch.setenv("BEIT_HOME", str(moved.with_name("cache")))
    message = r"mine.pdparams: an adapter of the weights '?published'?, and '?b.pdparams'? is in none of .*gone.*cache"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(moved)
    place = moved.parent / folder
    place.mkdir(exist_ok=True)
    shutil.copy(base, place / "b.pdparams")
    model = load_model(moved)
    expected = load_weights(trained[0] / "model.pdparams")
    np.testing.assert_array_equal(
        model.state_dict()["blocks.1.attn.qkv.weight"].numpy(), expected["blocks.1.attn.qkv.weight"]
    )


def test_other_base_weights_are_refused(base, moved):
    own = read(moved)
    header = json.loads(own.metadata["adapter"]) | {"path": "/gone/b.pdparams"}
    write(moved, own.tree, metadata=own.metadata | {"adapter": json.dumps(header)})
    weights = load_weights(base)
    weights["blocks.0.norm1.bias"] = weights["blocks.0.norm1.bias"] + 1e-3
    write(moved.with_name("b.pdparams"), weights)
    with pytest.raises(
        CheckpointError, match=r"an adapter of other weights than .*b.pdparams.*: the SHA-256"
    ):
        open_checkpoint(moved)
    del weights["blocks.0.norm1.bias"]
    write(moved.with_name("b.pdparams"), weights)
    with pytest.raises(CheckpointError, match="blocks.0.norm1.bias"):
        open_checkpoint(moved)


def test_an_adapter_at_another_image_size_and_of_a_masked_model_has_what_the_base_lacks(data, tmp_path):
    state = publishers.unilm_mim(np.random.default_rng(0), side=2, patch=8)
    write(tmp_path / "mim.pth", {"model": state})
    for size, output in ((16, "same"), (24, "larger")):
        config = tiny_config(
            data, tmp_path / output, MODEL__PRETRAINED=str(tmp_path / "mim.pth"), DATA__IMAGE_SIZE=size,
            TRAIN__NUM_EPOCHS=1, **LORA,
        )  # fmt: skip
        run(config)
        tables = {f"blocks.{k}.attn.relative_position_bias_table" for k in range(2)}
        adapter = tmp_path / output / "adapter.pdparams"
        assert tables <= load_weights(adapter).keys()
        merged, expected = open_checkpoint(adapter).state, load_weights(adapter.with_name("model.pdparams"))
        assert merged.keys() == expected.keys()
        assert all(np.array_equal(merged[name], value) for name, value in expected.items())


def test_a_continued_run_gives_the_same_adapter(data, base, trained, tmp_path, monkeypatch):
    keys = LORA | {"MODEL__PRETRAINED": str(base)}
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_after(patch, 7)
        run(tiny_config(data, tmp_path, **keys))
    with pytest.raises(ValueError, match="name them with -pretrained, also with -resume"):
        run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **LORA))
    with pytest.raises(FileNotFoundError, match="checkpoint gone does not exist"):
        run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **keys | {"MODEL__PRETRAINED": "gone"}))
    with pytest.raises(ValueError, match=r"lora_scale, MODEL\.LORA\.ALPHA / RANK, is 2, the config's is 3"):
        run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **keys | {"MODEL__LORA__ALPHA": 6.0}))
    other = str(tmp_path / "other.pdparams")
    write(other, {name: value + 1 for name, value in load_weights(base).items()})
    with pytest.raises(
        ValueError, match=r"latest.pdparams adapts other weights than those of MODEL.PRETRAINED=.*other"
    ):
        run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **keys | {"MODEL__PRETRAINED": other}))
    run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **keys))
    assert different_weights(trained[0], tmp_path, "adapter.pdparams") == []
    assert different_weights(trained[0], tmp_path) == []


def test_the_base_weights_are_read_once_for_all_adapter_files(data, base, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        resume, "open_checkpoint", lambda path, key: opened.append(path) or open_checkpoint(path, key=key)
    )
    run(tiny_config(data, tmp_path, MODEL__PRETRAINED=str(base), TRAIN__NUM_EPOCHS=1, **LORA))
    assert {"best_adapter.pdparams", "adapter.pdparams"} <= {file.name for file in tmp_path.iterdir()}
    assert opened == [base]


def test_a_tensor_that_changes_after_the_first_adapter_is_in_the_next(data, base, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "_metadata", lambda training: {})
    training = SimpleNamespace(config=tiny_config(data, tmp_path, MODEL__PRETRAINED=str(base)), adapter=None)
    state, file = open_checkpoint(base).state, tmp_path / "adapter.pdparams"
    for change in (0.0, 1.0):
        weights = state | {"head.weight": state["head.weight"] + 1, "head.bias": state["head.bias"] + change}
        resume._write_adapter(training, file, weights)
        assert ("head.bias" in load_weights(file)) == bool(change)
        assert all(
            np.array_equal(value, weights[name]) for name, value in open_checkpoint(file).state.items()
        )


def test_an_adapter_on_an_adapter(data, trained, tmp_path):
    first = str(trained[0] / "adapter.pdparams")
    run(tiny_config(data, tmp_path, MODEL__PRETRAINED=first, TRAIN__NUM_EPOCHS=1, **LORA))
    merged, expected = (
        open_checkpoint(tmp_path / "adapter.pdparams").state,
        load_weights(tmp_path / "model.pdparams"),
    )
    assert all(np.array_equal(merged[name], value) for name, value in expected.items())
