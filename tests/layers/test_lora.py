"""LoRA: the model against PEFT's formula in NumPy, what is trained, and merging."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.config import get_config
from beit.layers.lora import TARGETS, LoraLinear, add_lora, merge_lora
from beit.models.load import load_pretrained
from beit.tasks.classify import Classify
from tests.checkpoint import publishers
from tests.reference_numpy import classify
from tests.tiny import noise_images, options, tiny_beit, tiny_config

UNILM = publishers.unilm_classifier(np.random.default_rng(0))
IMAGES = noise_images(size=(12, 12))


def loaded():
    model = tiny_beit()
    load_pretrained(model, {"model": UNILM})
    return model


def logits(model):
    with paddle.no_grad():
        return model(paddle.to_tensor(IMAGES)).numpy()


def draw_factors(model):
    """Random factors, so that they have an effect; A and B as PEFT has them, `[r, I]` and `[O, r]`, by layer."""
    rng, drawn = np.random.default_rng(1), {}
    for name, layer in model.named_sublayers():
        if isinstance(layer, LoraLinear):
            (inputs, rank), outputs = layer.lora_a.shape, layer.lora_b.shape[1]
            a, b = (0.1 * rng.standard_normal(shape) for shape in ((rank, inputs), (outputs, rank)))
            layer.lora_a.set_value(a.T.astype(np.float32))
            layer.lora_b.set_value(b.T.astype(np.float32))
            drawn[name] = a, b
    return drawn


@pytest.mark.parametrize(
    ("choice", "adapted"),
    [({}, 2), ({"targets": TARGETS}, 8), ({"targets": ["proj", "fc2"], "blocks": [2], "rank": 3}, 2)],
)
def test_logits_are_those_of_the_formula_of_peft_before_and_after_merging(choice, adapted):
    model = loaded()
    before = logits(model)
    add_lora(model, alpha=5.0, **choice)
    np.testing.assert_array_equal(logits(model), before)
    factors = draw_factors(model)
    assert len(factors) == adapted
    scale = 5.0 / choice.get("rank", 8)
    changed = {f"{name}.weight": scale * (b @ a) for name, (a, b) in factors.items()}
    expected = classify({name: value + changed.get(name, 0.0) for name, value in UNILM.items()}, IMAGES, 3)
    assert np.abs(expected - before).max() > 0.1
    np.testing.assert_allclose(logits(model), expected, atol=1e-5)
    merge_lora(model)
    np.testing.assert_allclose(logits(model), expected, atol=1e-5)
    assert model.state_dict().keys() == tiny_beit().state_dict().keys()


def test_only_factors_head_and_norm_get_gradients():
    model = loaded()
    model.train()
    add_lora(model, rank=2, targets=["qkv", "fc1"], blocks=[1])
    names = model.state_dict().keys()
    assert tiny_beit().state_dict().keys() <= names
    model(paddle.to_tensor(IMAGES)).square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    factors = {f"blocks.0.{layer}.lora_{part}" for layer in ("attn.qkv", "mlp.fc1") for part in "ab"}
    rest = {f"{layer}.{part}" for layer in ("head", "fc_norm") for part in ("weight", "bias")}
    assert trained == factors | rest


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rank": 0}, "rank 0, expected 1 or more"),
        ({"alpha": 0.0}, r"alpha 0\.0, expected a number above 0"),
        ({"alpha": float("nan")}, "alpha nan, expected a number above 0"),
        ({"targets": ["query"]}, r"layers \['query'\], expected some of qkv, proj, fc1, fc2"),
        ({"targets": []}, r"layers \[\], expected some of"),
        ({"blocks": [0]}, r"blocks \[0\], the model has blocks 1 to 2"),
        ({"blocks": [3]}, r"blocks \[3\], the model has blocks 1 to 2"),
    ],
)
def test_wrong_choices_are_refused_before_anything_changes(choice, message):
    model = loaded()
    with pytest.raises(ValueError, match=message):
        add_lora(model, **choice)
    assert not any(parameter.stop_gradient for parameter in model.parameters())


def test_factors_are_not_added_twice():
    model = loaded()
    add_lora(model)
    with pytest.raises(ValueError, match="has factors already; call beit.merge_lora first"):
        add_lora(model)
    merge_lora(model)
    add_lora(model)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"MODEL__LORA__ALPHA": 2.0}, r"MODEL.LORA.ALPHA = 2.0 has no effect with MODEL.LORA.RANK = 0; set"),
        (
            {"MODEL__LORA__TARGETS": ["proj"]},
            r"MODEL.LORA.TARGETS = \('proj',\) has no effect with MODEL.LORA.RANK = 0; set",
        ),
        (
            {"MODEL__LORA__BLOCKS": [1]},
            r"MODEL.LORA.BLOCKS = \(1,\) has no effect with MODEL.LORA.RANK = 0; set",
        ),
        (
            {"MODEL__LORA__RANK": 2, "MODEL__LORA__BLOCKS": [13]},
            r"blocks \[13\], the model has blocks 1 to 12",
        ),
        ({"MODEL__LORA__RANK": 2, "TRAIN__FREEZE_LAYERS": 1}, "set TRAIN.FREEZE_LAYERS to 0"),
    ],
)
def test_contradicting_keys_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        get_config(None, options(keys))


def test_the_config_chooses_layers_blocks_rank_and_scale(tmp_path):
    keys = {"RANK": 3, "ALPHA": 6.0, "TARGETS": ["fc2"], "BLOCKS": [2]}
    keys = {f"MODEL__LORA__{name}": value for name, value in keys.items()} | {
        "MODEL__PRETRAINED": str(tmp_path)
    }
    task = Classify(tiny_config(**keys))
    task.freeze()
    found = {name: layer for name, layer in task.model.named_sublayers() if isinstance(layer, LoraLinear)}
    assert list(found) == ["blocks.1.mlp.fc2"]
    (layer,) = found.values()
    assert (layer.lora_a.shape[1], float(layer.lora_scale)) == (3, 2.0)


def test_training_without_given_weights_is_refused():
    task = Classify(
        get_config(None, options({"MODEL__LORA__RANK": 2, "MODEL__DEPTH": 1, "MODEL__EMBED_DIM": 12}))
    )
    with pytest.raises(
        ValueError, match="MODEL.LORA.RANK = 2 adapts given weights: name them with -pretrained"
    ):
        task.freeze()
