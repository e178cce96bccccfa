"""Loss, every gradient and ten optimizer steps of a tiny VQ-KD compared with NumPy in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import beit
from beit.models.tokenizer import build_vqkd
from beit.optim.groups import parameter_groups
from tests.models import vqkd_numpy as reference

HEADS, DECAY, COMMITMENT = 2, 0.9, 0.7
SIZES = {"CODE_DIM": 3, "NUM_CODES": 5, "PATCH_SIZE": 2, "EMBED_DIM": 4, "DEPTH": 1, "NUM_HEADS": HEADS}
SIZES |= {"DECODER_DEPTH": 1, "TEACHER_DIM": 3, "CODEBOOK_DECAY": DECAY, "COMMITMENT": COMMITMENT}


def tiny_model():
    """A model in float64 with random parameters and codes, so that no gradient is close to zero."""
    opts = [item for key, value in SIZES.items() for item in (f"TOKENIZER.{key}", value)]
    config = beit.get_config(opts=[*opts, "TASK", "tokenizer", "DATA.IMAGE_SIZE", 4, "MODEL.PATCH_SIZE", 2])
    model = build_vqkd(config)
    model.to(dtype="float64")
    rng = np.random.default_rng(1)  # several codes are in use in every step
    for parameter in model.parameters():
        parameter.set_value((0.2 if parameter.ndim == 1 else 1.0) * rng.standard_normal(parameter.shape))
    model.quantize.embedding.weight.set_value(reference.unit(rng.standard_normal((5, 3))))
    model.quantize.embedding.initted.set_value(np.ones(1))
    model.train()
    return model


def batch(step):
    rng = np.random.default_rng([1, step])
    return 0.5 + rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((2, 4, 3))


def parameters_of(model):
    return {name: parameter.numpy().astype(np.float64) for name, parameter in model.named_parameters()}


def test_gradients_and_ten_steps():
    model = tiny_model()
    groups = parameter_groups(
        model.named_parameters(), model.layer_id, num_layers=1, layer_decay=1.0, weight_decay=0.1
    )
    settings = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-5}
    optimizer = paddle.optimizer.AdamW(learning_rate=0.01, parameters=groups, **settings)
    adamw = reference.AdamW(0.01, (0.9, 0.99), 1e-5, 0.1)
    parameters, codebook = parameters_of(model), model.quantize.embedding.weight.numpy()
    for step in range(10):
        images, targets = batch(step)
        found = model(paddle.to_tensor(images), paddle.to_tensor(targets))
        found["loss"].backward()
        values, slopes, fixed = reference.gradients(parameters, codebook, images, targets, HEADS, COMMITMENT)
        for name, value in values.items():
            np.testing.assert_allclose(float(found[name]), value, rtol=1e-6, atol=1e-9)
        for name, parameter in model.named_parameters():
            np.testing.assert_allclose(parameter.grad.numpy(), slopes[name], atol=1e-7, err_msg=name)
        assert len(np.unique(found["ids"].numpy())) > 1
        optimizer.step()
        optimizer.clear_grad()
        parameters = adamw.step(parameters, slopes)
        codebook = reference.move_codebook(codebook, fixed, DECAY)
        np.testing.assert_allclose(model.quantize.embedding.weight.numpy(), codebook, atol=1e-7)
    for name, value in parameters_of(model).items():
        np.testing.assert_allclose(value, parameters[name], atol=1e-6, err_msg=name)


def test_features_of_another_grid_or_width_are_refused():
    model = tiny_model()
    images = paddle.zeros([1, 3, 4, 4], "float64")
    for shape in ([1, 9, 3], [1, 4, 2]):
        with pytest.raises(ValueError, match=r"grid of 2x2 and TOKENIZER\.TEACHER_DIM = 3"):
            model(images, paddle.zeros(shape, "float64"))


def test_layers_of_the_tokenizer():
    model = tiny_model()
    ids = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert ids["encoder.pos_embed"] == ids["encoder.patch_embed.proj.weight"] == 0
    assert ids["encoder.blocks.0.mlp.fc1.weight"] == 1
    assert ids["encoder.fc_norm.weight"] == ids["decoder.cls_token"] == ids["encode_task_layer.0.weight"] == 2
    model.freeze_layers(2)
    frozen = {name for name, parameter in model.named_parameters() if parameter.stop_gradient}
    assert frozen == {name for name, layer in ids.items() if layer < 2}
