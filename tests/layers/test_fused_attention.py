"""The branch of the fused kernel, with stand-ins for the kernel: there is none on a CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import paddle
import pytest

from beit.layers import fused_attention
from beit.layers.attention import Attention
from beit.positions import relative_position_index
from tests.tiny import randomize

RNG = np.random.default_rng(0)
GRID = (2, 3)
TOKENS = 7

Kernel = Callable[..., paddle.Tensor]


def right(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor | None, scale: float
) -> paddle.Tensor:
    """What the kernel promises, with einsum."""
    logits = scale * paddle.einsum("bnhd,bmhd->bhnm", q, k)
    weights = paddle.nn.functional.softmax(logits if bias is None else logits + bias, axis=-1)
    return paddle.einsum("bhnm,bmhd->bnhd", weights, v)


def without_bias(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, *_: object) -> paddle.Tensor:
    return right(q, k, v, None, q.shape[-1] ** -0.5)


def askew(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor, scale: float
) -> paddle.Tensor:
    return right(q, k, v, bias.flip(3), scale)


def without_gradient(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor, scale: float
) -> paddle.Tensor:
    return right(q, k, v, bias.detach(), scale)


def gradient_of_first_sample(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor, scale: float
) -> paddle.Tensor:
    return right(q, k, v, paddle.concat([bias[:1], bias[1:].detach()]), scale)


def missing(*_: object) -> paddle.Tensor:
    raise RuntimeError("(NotFound) The kernel `memory_efficient_attention` is not registered.\n  [Hint: …]")


@pytest.fixture
def use_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Kernel], list[paddle.Tensor]]]:
    """Pretend to be on a GPU with a given kernel; the biases it was called with are returned."""
    biases: list[paddle.Tensor] = []

    def install(kernel: Kernel) -> list[paddle.Tensor]:
        def recorded(
            q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor | None, scale: float
        ) -> paddle.Tensor:
            if bias is not None:
                assert bias.shape == [q.shape[0], q.shape[2], q.shape[1], k.shape[1]]
                assert bias.dtype == q.dtype and k.shape[1] % 8 == 0
                biases.append(bias)
            return kernel(q, k, v, bias, scale)

        fused_attention.check_kernel.cache_clear()
        monkeypatch.setattr(fused_attention, "_kernel", recorded)
        monkeypatch.setattr(fused_attention, "_is_on_gpu", lambda: True)
        return biases

    yield install
    fused_attention.check_kernel.cache_clear()


def make_attention(**options: object) -> tuple[Attention, paddle.Tensor, paddle.Tensor]:
    attention = randomize(Attention(16, num_heads=2, grid_size=GRID, **options), RNG)
    x = paddle.to_tensor(RNG.normal(size=(3, TOKENS, 16)).astype("float32"))
    return attention, x, paddle.to_tensor(relative_position_index(GRID))


def output_and_table_gradient(attention: Attention, *inputs: paddle.Tensor) -> tuple[np.ndarray, np.ndarray]:
    attention.clear_gradients()
    output = attention(*inputs)
    (output * output).sum().backward()
    return output.numpy(), attention.relative_position_bias_table.grad.numpy()


@pytest.mark.parametrize("options", [{}, {"head_dim": 5, "scale": 0.3}])
def test_fused_path_gives_output_and_table_gradient_of_the_plain_path(
    options: dict, use_kernel: Callable[[Kernel], list]
) -> None:
    attention, x, index = make_attention(**options)
    shared = paddle.to_tensor(RNG.normal(size=(1, 2, TOKENS, TOKENS)).astype("float32"))
    expected, expected_gradient = output_and_table_gradient(attention, x, shared, index)
    biases = use_kernel(right)
    output, gradient = output_and_table_gradient(attention, x, shared, index)
    assert len(biases) == 2  # the probe and this call
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    assert np.abs(expected_gradient).max() > 0.1
    with paddle.no_grad():
        np.testing.assert_allclose(attention(x, shared, index).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (right, "agrees with the plain path in float32"),
        (askew, "output of Paddle's kernel is off by"),
        (without_bias, "no gradient of the position bias"),
        (without_gradient, "no gradient of the position bias"),
        (gradient_of_first_sample, "gradient of the bias of Paddle's kernel is off by"),
        (missing, "does not run: \\(NotFound\\) The kernel `memory_efficient_attention` is not registered"),
    ],
)
def test_bias_and_its_gradient_are_right_whatever_the_kernel_does(
    kernel: Kernel, reason: str, use_kernel: Callable[[Kernel], list]
) -> None:
    attention, x, index = make_attention()
    expected, expected_gradient = output_and_table_gradient(attention, x, None, index)
    without = attention(x).numpy()
    assert np.abs(expected - without).max() > 0.1
    use_kernel(kernel)
    output, gradient = output_and_table_gradient(attention, x, None, index)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    result = fused_attention.check_kernel("Place(cpu)", "float32", 8, True)
    assert result.works is (kernel is right)
    assert re.search(reason, result.reason), result.reason


def test_a_kernel_without_gradient_serves_where_none_is_needed(
    use_kernel: Callable[[Kernel], list],
) -> None:
    use_kernel(without_gradient)
    assert not fused_attention.check_kernel("Place(cpu)", "float32", 8, True).works
    assert fused_attention.check_kernel("Place(cpu)", "float32", 8, False).works
    use_kernel(without_bias)
    assert not fused_attention.check_kernel("Place(cpu)", "float32", 8, False).works


def test_the_log_says_which_path_is_taken_and_why(use_kernel: Callable[[Kernel], list]) -> None:
    use_kernel(without_gradient)
    assert fused_attention.describe("float32", 8) == (
        "attention: plain in training (Paddle's kernel gives no gradient of the position bias), "
        "fused in evaluation (Paddle's kernel agrees with the plain path in float32)"
    )


def test_low_precision_is_tried_by_itself(use_kernel: Callable[[Kernel], list]) -> None:
    def in_float32(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor, scale: float):
        wide = right(*(x.astype("float32") for x in (q, k, v, bias)), scale)
        return wide.astype(q.dtype)

    use_kernel(in_float32)
    for dtype in ("float16", "bfloat16"):
        assert fused_attention.check_kernel("Place(cpu)", dtype, 64, True).works
    assert fused_attention.check_kernel("Place(cpu)", "float64", 64, True) == (False, "not made for float64")


def test_probe_leaves_the_random_numbers_alone(use_kernel: Callable[[Kernel], list]) -> None:
    def drawing(*arguments: object) -> paddle.Tensor:
        paddle.rand([3])
        return right(*arguments)

    use_kernel(drawing)
    paddle.seed(5)
    expected = paddle.rand([2]).numpy()
    paddle.seed(5)
    assert fused_attention.check_kernel("Place(cpu)", "float32", 8, True).works
    np.testing.assert_array_equal(paddle.rand([2]).numpy(), expected)


def test_dropout_and_asked_for_weights_take_the_plain_path(use_kernel: Callable[[Kernel], list]) -> None:
    attention, x, index = make_attention(attn_drop=0.5)
    biases = use_kernel(right)
    attention.train()
    attention(x, None, index)
    attention.eval()
    weights = attention.weights(x, None, index)
    assert biases == []
    np.testing.assert_allclose(weights.sum(-1).numpy(), 1.0, rtol=1e-6)
    attention(x, None, index)
    assert biases != []


def test_a_traced_graph_takes_the_plain_path(use_kernel: Callable[[Kernel], list]) -> None:
    attention, x, index = make_attention()
    attention.eval()
    expected = attention(x, None, index).numpy()
    use_kernel(missing)

    def mix(tokens: paddle.Tensor) -> paddle.Tensor:
        return attention(tokens, None, index)

    any_batch = paddle.static.InputSpec([None, TOKENS, 16], "float32")
    traced = paddle.jit.to_static(mix, input_spec=[any_batch], full_graph=True)
    with paddle.no_grad():
        np.testing.assert_allclose(traced(x).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert fused_attention.check_kernel.cache_info().currsize == 0


@pytest.mark.parametrize("keys", [7, 8, 13])
def test_keys_that_fill_up_weigh_nothing(keys: int) -> None:
    q, k, v = (
        paddle.to_tensor(RNG.normal(size=(2, count, 3, 4)).astype("float32")) for count in (5, keys, keys)
    )
    bias = paddle.to_tensor(RNG.normal(size=(1, 3, 5, keys)).astype("float32"))
    more_k, more_v, more_bias = fused_attention.align_keys(k, v, bias)
    assert more_k.shape[1] == more_v.shape[1] == more_bias.shape[3] == -(-keys // 8) * 8
    expected = right(q, k, v, bias, 0.5).numpy()
    np.testing.assert_allclose(right(q, more_k, more_v, more_bias, 0.5).numpy(), expected, atol=1e-6)
