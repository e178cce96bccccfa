"""The tokenizer task: training, resuming, sums over the validation set, stored features, warnings, refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.checkpoint.files import write
from beit.data.sampler import Sample
from beit.models.teachers import load_teacher
from beit.models.tokenizer import build_tokenizer
from beit.predict.tokens import store_features
from beit.tasks import TASKS
from beit.train.run import run
from beit.train.state import NonFiniteLossError
from tests.models.teacher_numpy import dino_state
from tests.tiny import TOKENIZER, different_weights, load_weights, losses, tiny_config, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), train=12, val=6)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    file = tmp_path_factory.mktemp("teacher") / "dino.pdparams"
    write(file, dino_state(np.random.default_rng(0), side=4))
    return str(file)


@pytest.fixture
def build(data, teacher, tmp_path):
    def config(output="out", **keys):
        given = TOKENIZER | {"TOKENIZER__TEACHER_PRETRAINED": teacher} | keys
        return tiny_config(data, tmp_path / output, **given)

    return config


def test_a_resumed_run_has_the_same_losses_and_weights(build, tmp_path):
    metrics = run(build("whole"))
    assert 0 < metrics["cosine_loss"] < 2
    assert metrics["codes_used"] == 8 * metrics["usage"]
    assert metrics["count"] == 6
    logged = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert {
        "train/loss",
        "train/cosine_loss",
        "train/usage",
        "train/perplexity",
        "train/dead_codes",
    } <= logged[0].keys()
    for name in ("code_map", "codebook"):
        assert np.asarray(Image.open(tmp_path / f"whole/{name}.png")).std() > 0
    run(build("half", MODEL__RESUME=str(tmp_path / "whole/epoch_0001.pdparams")))
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")[3:]
    assert different_weights(tmp_path / "half", tmp_path / "whole") == []


def test_trained_weights_can_be_loaded_as_a_tokenizer(build, tmp_path):
    run(build(TRAIN__NUM_EPOCHS=1))
    tokenizer = build_tokenizer(build(TOKENIZER__PRETRAINED=str(tmp_path / "out/model.pdparams")))
    ids = tokenizer.encode(paddle.rand([2, 3, 16, 16]))
    assert ids.shape == [2, 16]
    stored = load_weights(tmp_path / "out/model.pdparams")
    np.testing.assert_array_equal(
        tokenizer.quantize.embedding.weight.numpy(), stored["quantize.embedding.weight"]
    )
    assert not any(name.startswith("teacher") for name in stored)


def test_evaluation_does_not_depend_on_the_batch_size(build, tmp_path):
    run(build(TRAIN__NUM_EPOCHS=1))
    file = str(tmp_path / "out/model.pdparams")
    found = [
        run(build(f"eval{n}", EVAL=True, MODEL__PRETRAINED=file, DATA__BATCH_SIZE_EVAL=n)) for n in (1, 4)
    ]
    for name in ("cosine_loss", "commitment_loss", "codes_used", "perplexity", "count"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5), name


def test_the_key_of_the_teacher_chooses_its_weights(build, tmp_path):
    states = {name: dino_state(np.random.default_rng(k), side=4) for k, name in enumerate(("a", "b"))}
    write(tmp_path / "both.pdparams", states)
    shapes, stored = {}, {}
    for name in states:
        keys = {"TEACHER_PRETRAINED": str(tmp_path / "both.pdparams"), "TEACHER_PRETRAINED_KEY": name}
        config = build(**{f"TOKENIZER__{key}": value for key, value in keys.items()})
        (teacher,) = TASKS["tokenizer"](config)._frozen
        np.testing.assert_array_equal(teacher.pos_embed.numpy(), states[name]["pos_embed"])
        shapes[name] = store_features(config, tmp_path / name)
        stored[name] = np.load(tmp_path / name / "val.npy")
    assert shapes["a"] == shapes["b"] and not np.allclose(stored["a"], stored["b"], atol=0.1)


def test_stored_features_are_those_of_the_teacher(build, tmp_path):
    live = build()
    shapes = store_features(live, tmp_path / "features")
    assert shapes == {"train": (12, 16, 16), "val": (6, 16, 16)}
    stored = build(TOKENIZER__TEACHER="features", TOKENIZER__TEACHER_PRETRAINED=str(tmp_path / "features"))
    sample = TASKS["tokenizer"](stored).dataset("train")[Sample(7, 100)]
    images = paddle.to_tensor(sample["image"][None]).astype("float32") / 255.0
    expected = load_teacher("dino", live.TOKENIZER.TEACHER_PRETRAINED, num_heads=2)(images)[0]
    np.testing.assert_allclose(sample["target"], expected.numpy(), atol=5e-3)  # stored in float16
    assert "label" not in sample
    assert run(stored)["count"] == 6


def test_stored_features_stay_when_they_cannot_be_computed_again(build, tmp_path, monkeypatch):
    store_features(build(), tmp_path / "features")
    before = {file.name: file.read_bytes() for file in (tmp_path / "features").iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("beit.predict.tokens.unit_range", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store_features(build(), tmp_path / "features")
    assert {file.name: file.read_bytes() for file in (tmp_path / "features").iterdir()} == before


def test_metrics_count_codes_over_the_whole_data_set(build):
    task = TASKS["tokenizer"](build())
    found = task.metrics(
        {"count": 4.0, "cosine_loss": 2.0, "commitment_loss": 1.0, "codes": np.array([6.0, 2, 0, 0])}
    )
    assert found["loss"] == 0.75
    assert (found["codes_used"], found["usage"]) == (2, 0.5)
    assert found["perplexity"] == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert task.selection_metric(found) == -0.5


def test_a_collapsing_codebook_causes_one_warning(build):
    task = TASKS["tokenizer"](build())
    assert task.health_warnings({"usage": 0.1}, is_warm=False) == []
    (message,) = task.health_warnings({"usage": 0.1}, is_warm=True)
    assert "10 % of 8 codes" in message
    assert task.health_warnings({"usage": 0.1}, is_warm=True) == []
    assert task.health_warnings({"usage": 0.9}, is_warm=True) == []
    assert len(task.health_warnings({"usage": 0.4}, is_warm=True)) == 1


def test_a_collapse_is_written_to_the_log(build, tmp_path):
    with pytest.warns(UserWarning, match="one batch of 64 features, fewer than its 4000 codes"):
        run(build(TOKENIZER__NUM_CODES=4000, TOKENIZER__DEAD_AFTER=1))
    assert "warning: the codebook collapses" in (tmp_path / "out/log.txt").read_text()


def test_a_nan_loss_is_named(build, monkeypatch):
    task = TASKS["tokenizer"]
    monkeypatch.setattr(
        task, "_targets", lambda self, batch, images: paddle.full([len(images), 16, 16], float("nan"))
    )
    with pytest.raises(NonFiniteLossError, match="cosine_loss = nan") as caught:
        run(build())
    assert "commitment_loss" not in str(caught.value)


def test_invalid_configs_are_refused(build, teacher):
    def refused(match, **keys):
        with pytest.raises(ValueError, match=match):
            TASKS["tokenizer"](build(**keys))

    refused("TOKENIZER.TYPE = dall-e", TOKENIZER__TYPE="dall-e")
    refused("needs TOKENIZER.TEACHER_PRETRAINED", TOKENIZER__TEACHER_PRETRAINED=None)
    refused("set TOKENIZER.TEACHER_DIM 16", TOKENIZER__TEACHER_DIM=8)
    refused("MODEL_EMA", TRAIN__MODEL_EMA=True)
    refused("no CLIP vision transformer", TOKENIZER__TEACHER="clip")
    with pytest.warns(UserWarning, match="CODE_DIM = 65"):
        TASKS["tokenizer"](build(TOKENIZER__CODE_DIM=65))


def test_the_codebook_is_no_parameter_and_positions_do_not_decay(build):
    task = TASKS["tokenizer"](build())
    names = {parameter.name: name for name, parameter in task.model.named_parameters()}
    decaying = {names[p.name] for group in task.param_groups() if group["decays"] for p in group["params"]}
    assert not any(name.startswith("quantize.") for name in names.values())
    assert {"encoder.patch_embed.proj.weight", "decode_task_layer.2.weight"} <= decaying
    assert not decaying & {"encoder.cls_token", "encoder.pos_embed", "decoder.cls_token", "decoder.pos_embed"}
    assert all(name.endswith(".weight") and "norm" not in name for name in decaying)
