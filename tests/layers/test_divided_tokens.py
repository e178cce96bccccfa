"""One image in parts of its tokens: what all tokens together give."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import paddle
import pytest

from beit import cpu_threads
from beit.beit import Beit, build_beit
from beit.config import get_config
from beit.layers import divided_tokens
from beit.layers.divided_tokens import of_all_tokens, run_by_tokens
from tests.test_beit import randomized

SMALL = [
    "MODEL.EMBED_DIM",
    24,
    "MODEL.NUM_HEADS",
    2,
    "MODEL.DEPTH",
    3,
    "DATA.IMAGE_SIZE",
    48,
    "MODEL.NUM_CLASSES",
    5,
]


@pytest.fixture(params=[2, 3])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(cpu_threads, "threads", lambda: request.param)
    monkeypatch.setattr(cpu_threads._settings, "divides_blocks", True)
    monkeypatch.setattr(divided_tokens, "_LEAST_TOKENS", 1)
    return request.param


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that attention saw in each call."""
    seen: list[int] = []

    def spy(*own: paddle.Tensor) -> Any:
        seen.append(own[0].shape[2])
        return of_all_tokens(*own)

    monkeypatch.setattr("beit.layers.attention.of_all_tokens", spy)
    return seen


def classifier(*options: Any) -> Beit:
    return randomized(build_beit(get_config("beit_tiny_patch16_224", [*SMALL, *options])))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["MODEL.USE_REL_POS_BIAS", False, "MODEL.USE_SHARED_REL_POS_BIAS", True],
        ["MODEL.USE_SHARED_REL_POS_BIAS", True],
        ["MODEL.USE_REL_POS_BIAS", False, "MODEL.USE_ABS_POS_EMB", True, "MODEL.INIT_VALUES", 0.0],
    ],
)
def test_logits_are_those_of_all_tokens(
    parts: int, options: list[Any], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image = classifier(*options), paddle.randn([1, 3, 48, 48])
    with paddle.no_grad():
        divided = model(image).numpy()
        assert len(sizes) == 3 * parts and sum(sizes) == 3 * 10  # 3 blocks, 10 tokens
        monkeypatch.setattr(cpu_threads._settings, "divides_blocks", False)
        np.testing.assert_allclose(divided, model(image).numpy(), rtol=1e-5, atol=1e-6)


def test_tokens_of_chosen_layers(parts: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = classifier(), paddle.randn([1, 3, 48, 48])
    with paddle.no_grad():
        divided = model.forward_features(image, return_layers=[2, 0])
        assert len(sizes) == 3 * parts
        monkeypatch.setattr(cpu_threads._settings, "divides_blocks", False)
        for ours, whole in zip(divided, model.forward_features(image, return_layers=[2, 0]), strict=True):
            np.testing.assert_allclose(ours.numpy(), whole.numpy(), rtol=1e-5, atol=1e-5)


def test_it_is_for_one_image_without_gradients(
    parts: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    model(paddle.randn([1, 3, 48, 48]))  # with gradients
    with paddle.no_grad():
        model(paddle.randn([2, 3, 48, 48]))
        model.forward_outputs(paddle.randn([1, 3, 48, 48]), return_attentions=[1])
        model.forward_features(paddle.randn([1, 3, 64, 64]), any_size=True)
        cpu_threads.divided(model, paddle.randn([2, 3, 48, 48]))
        hook = model.blocks[1].attn.register_forward_pre_hook(lambda *_: None)
        model(paddle.randn([1, 3, 48, 48]))
        hook.remove()
        monkeypatch.setattr(divided_tokens, "_LEAST_TOKENS", 64)
        model(paddle.randn([1, 3, 48, 48]))
    assert set(sizes) == {10, 17}


def test_while_one_thread_is_at_it_others_do_without(parts: int) -> None:
    """As in a server: members of two teams in one pool would wait for each other."""
    x, inside, outside = paddle.randn([1, 9, 4]), threading.Event(), threading.Event()

    def wait(tokens: paddle.Tensor, rows: slice) -> list[paddle.Tensor]:
        inside.set()
        assert outside.wait(10)
        return [tokens]

    with paddle.no_grad():
        first = threading.Thread(target=run_without, args=(wait, x))
        first.start()
        assert inside.wait(10)
        assert run_by_tokens(lambda tokens, rows: [tokens], x, []) is None
        outside.set()
        first.join()
        (after,) = run_by_tokens(lambda tokens, rows: [tokens], x, []) or []
    np.testing.assert_array_equal(after.numpy(), x.numpy())


def run_without(function: Any, x: paddle.Tensor) -> None:
    with paddle.no_grad():
        run_by_tokens(function, x, [])


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_a_part_wakes_the_others_and_arrives(parts: int, failing: int) -> None:
    x = paddle.randn([1, 6, 4])
    starts = [0, 3] if parts == 2 else [0, 2]

    def function(tokens: paddle.Tensor, rows: slice) -> list[paddle.Tensor]:
        if rows.start == starts[failing]:
            raise ValueError("no such token")
        of_all_tokens(tokens.reshape([1, 1, -1, 4]))
        return [tokens]

    with paddle.no_grad(), pytest.raises(ValueError, match="no such token"):
        run_by_tokens(function, x, [])
    with paddle.no_grad():
        assert run_by_tokens(lambda tokens, rows: [tokens], x, []) is not None
