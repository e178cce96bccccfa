"""Blocks trained in parts of a batch: the loss, the gradients and the drawn paths of the whole batch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from beit import cpu_threads
from beit.beit import Beit, build_beit
from beit.config import get_config
from beit.layers import divided_blocks
from beit.models.mim import build_mim
from tests.test_beit import randomized

SMALL = ["MODEL.EMBED_DIM", 24, "MODEL.NUM_HEADS", 2, "DATA.IMAGE_SIZE", 32, "MODEL.NUM_CLASSES", 5]


@pytest.fixture(params=[1, 2, 3])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(cpu_threads, "threads", lambda: request.param)
    monkeypatch.setattr(cpu_threads._settings, "divides_blocks", False)
    monkeypatch.setattr(divided_blocks, "LEAST_VALUES", 1)
    yield request.param


def classifier(*options: Any) -> Beit:
    model = randomized(build_beit(get_config("beit_tiny_patch16_224", [*SMALL, "MODEL.DEPTH", 3, *options])))
    model.train()
    return model


def gradients(model: paddle.nn.Layer, *inputs: paddle.Tensor) -> dict[str, np.ndarray | None]:
    paddle.seed(7)
    out = model(*inputs)
    losses = out if isinstance(out, tuple) else (out,)
    loss = paddle.add_n(
        [(one * paddle.arange(one.size, dtype="float32").reshape(one.shape).sin()).sum() for one in losses]
    )
    loss.backward()
    found = {name: None if p.grad is None else p.grad.numpy() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return found | {"loss": loss.numpy()}


def assert_same(model: paddle.nn.Layer, *inputs: paddle.Tensor) -> None:
    whole = gradients(model, *inputs)
    cpu_threads.divide_blocks()
    divided = gradients(model, *inputs)
    again = gradients(model, *inputs)
    assert whole.keys() == divided.keys()
    for name, expected in whole.items():
        if expected is None:
            assert divided[name] is None, name
            continue
        scale = np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(divided[name] / scale, expected / scale, atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(divided[name], again[name], err_msg=name)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["MODEL.DROPPATH", 0.5],
        ["TRAIN.RECOMPUTE", True, "MODEL.DROPPATH", 0.5],
        ["MODEL.USE_REL_POS_BIAS", False, "MODEL.USE_SHARED_REL_POS_BIAS", True],
        ["MODEL.USE_SHARED_REL_POS_BIAS", True, "TRAIN.RECOMPUTE", True],
        ["MODEL.INIT_VALUES", 0.0, "MODEL.QKV_BIAS", False],
    ],
)
def test_gradients_are_those_of_the_whole_batch(parts: int, batch: int, options: list[Any]) -> None:
    assert_same(classifier(*options), paddle.randn([batch, 3, 32, 32]))


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_frozen_layers_have_no_gradient(parts: int, layers: int) -> None:
    """Of the embedding, so that the tokens have none either; of a block; of all blocks."""
    model = classifier()
    model.freeze_layers(layers)
    assert_same(model, paddle.randn([4, 3, 32, 32]))


@pytest.mark.parametrize("early", [0, 2])
def test_masked_models_and_their_branch(parts: int, early: int) -> None:
    options = ["MODEL.DEPTH", 3, "MODEL.USE_REL_POS_BIAS", False, "MODEL.USE_SHARED_REL_POS_BIAS", True,
               "MODEL.EARLY_LAYERS", early, "TOKENIZER.NUM_CODES", 11]  # fmt: skip
    model = randomized(build_mim(get_config("beit_tiny_patch16_224", [*SMALL, *options])))
    model.train()
    mask = paddle.to_tensor([[True, False, True, False]] * 4)
    assert_same(model, paddle.randn([4, 3, 32, 32]), mask)


def test_the_last_tokens_may_be_asked_for_twice(parts: int) -> None:
    """As a segmentation model does."""
    model = classifier()

    class Layers(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
            return tuple(model.run_blocks(model.embed(x), keep=frozenset([0, 2])))

    assert_same(Layers(), paddle.randn([4, 3, 32, 32]))


def test_gradients_add_up_over_micro_batches(parts: int) -> None:
    model, images = classifier(), paddle.randn([4, 3, 32, 32])
    cpu_threads.divide_blocks()
    for _ in range(2):
        model(images).square().sum().backward()
    twice = model.blocks[1].mlp.fc1.weight.grad.numpy()
    model.clear_gradients()
    model(images).square().sum().backward()
    np.testing.assert_allclose(twice, 2 * model.blocks[1].mlp.fc1.weight.grad.numpy(), rtol=1e-5)


def test_it_needs_training_on_a_tuned_cpu_without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_threads._settings, "divides_blocks", False)
    monkeypatch.setattr(divided_blocks, "LEAST_VALUES", 240)
    model, x = classifier(), paddle.randn([2, 5, 24])
    blocks = list(model.blocks)
    assert not divided_blocks.is_divided(x, blocks)
    cpu_threads.divide_blocks()
    assert divided_blocks.is_divided(x, blocks)
    assert not divided_blocks.is_divided(x[:1], blocks)  # too small
    with paddle.no_grad():
        assert not divided_blocks.is_divided(x, blocks)
    assert not divided_blocks.is_divided(x, list(classifier("MODEL.DROPOUT", 0.1).blocks))
    hook = model.blocks[1].mlp.register_forward_post_hook(lambda *_: None)
    assert not divided_blocks.is_divided(x, blocks)
    hook.remove()
    assert divided_blocks.is_divided(x, blocks)
    model.eval()
    assert not divided_blocks.is_divided(x, blocks)


def test_an_error_in_a_part_arrives(parts: int) -> None:
    cpu_threads.divide_blocks()
    model = classifier()

    def refuse(*_: Any) -> None:
        raise ValueError("no such block")

    model.blocks[1].mlp.activation = refuse
    with pytest.raises(ValueError, match="no such block"):
        model(paddle.randn([4, 3, 32, 32]))


@pytest.mark.parametrize("runs_backward", [True, False])
def test_nothing_is_left_behind(parts: int, runs_backward: bool) -> None:
    """A hook that knew its leaf would keep all gradients of all steps."""
    cpu_threads.divide_blocks()
    model, images = classifier(), paddle.randn([4, 3, 32, 32])

    def step() -> int:
        loss = model(images).square().sum()
        if runs_backward:
            loss.backward()
            model.clear_gradients(set_to_zero=False)
        del loss
        gc.collect()
        return paddle.base.core.host_memory_stat_current_value("Allocated", 0)

    step()
    assert step() == step() == step()
