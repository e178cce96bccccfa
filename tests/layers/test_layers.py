"""Parts of the encoder against short NumPy references."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from beit.layers.attention import Attention
from beit.layers.block import Block, DropPath, Mlp
from beit.layers.init import init_uniform, init_weights, rescale_block, truncated_normal
from beit.layers.patch_embed import PatchEmbed
from beit.layers.relative_position import RelativePositionBias, gather_bias
from beit.positions import num_table_rows, relative_position_index
from tests.reference_numpy import gelu, softmax
from tests.tiny import randomize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("grid", "rows"), [((14, 14), 732), ((24, 24), 2212), ((32, 32), 3972), ((40, 40), 6244)]
)
def test_number_of_table_rows_of_the_published_sizes(grid: tuple[int, int], rows: int) -> None:
    assert num_table_rows(grid) == rows


@pytest.mark.parametrize("grid", [(3, 3), (2, 4), (1, 5)])
def test_index_is_the_offset_of_query_and_key(grid: tuple[int, int]) -> None:
    height, width = grid
    index = relative_position_index(grid)
    last = num_table_rows(grid)
    cells = [(y, x) for y in range(height) for x in range(width)]
    for i, (yi, xi) in enumerate(cells):
        for j, (yj, xj) in enumerate(cells):
            assert index[i + 1, j + 1] == (yi - yj + height - 1) * (2 * width - 1) + xi - xj + width - 1
    assert set(index[0, 1:]) == {last - 3}
    assert set(index[1:, 0]) == {last - 2}
    assert index[0, 0] == last - 1


def test_bias_is_gathered_per_head_and_gradients_add_up() -> None:
    shared = RelativePositionBias((2, 2), num_heads=3)
    randomize(shared, RNG)
    index = relative_position_index((2, 2))
    bias = shared(paddle.to_tensor(index))
    table = shared.relative_position_bias_table
    np.testing.assert_array_equal(bias.numpy()[0], table.numpy()[index].transpose(2, 0, 1))
    gather_bias(table, paddle.to_tensor(index)).sum().backward()
    np.testing.assert_array_equal(
        table.grad.numpy()[:, 0], np.bincount(index.reshape(-1), minlength=len(table))
    )


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"head_dim": 5}, {"scale": 0.2}])
def test_attention_against_numpy(options: dict) -> None:
    dim, heads, grid = 12, 3, (2, 2)
    attention = Attention(dim, num_heads=heads, grid_size=grid, **options)
    randomize(attention, RNG)
    attention.eval()
    index = relative_position_index(grid)
    x = RNG.normal(size=(2, 5, dim)).astype("float32")
    shared = RNG.normal(size=(1, heads, 5, 5)).astype("float32")
    got = attention(paddle.to_tensor(x), paddle.to_tensor(shared), paddle.to_tensor(index)).numpy()

    weights = {name: value.numpy() for name, value in attention.state_dict().items()}
    head_dim = options.get("head_dim", dim // heads)
    inner = heads * head_dim
    bias = np.zeros(3 * inner)
    if options.get("qkv_bias", True):
        bias[:inner], bias[2 * inner :] = weights["q_bias"], weights["v_bias"]
    qkv = x @ weights["qkv.weight"] + bias
    table = weights["relative_position_bias_table"][index]  # [N, N, H]
    mixed = np.zeros((2, 5, inner))
    for head in range(heads):
        q, k, v = (qkv[..., part * inner + head * head_dim :][..., :head_dim] for part in range(3))
        logits = (
            q @ k.swapaxes(1, 2) * options.get("scale", head_dim**-0.5) + table[..., head] + shared[0, head]
        )
        mixed[..., head * head_dim : (head + 1) * head_dim] = softmax(logits) @ v
    np.testing.assert_allclose(got, mixed @ weights["proj.weight"] + weights["proj.bias"], atol=2e-5)


def test_attention_without_a_table_adds_only_the_shared_bias() -> None:
    attention = Attention(4, num_heads=2)
    randomize(attention, RNG)
    x = paddle.to_tensor(RNG.normal(size=(1, 3, 4)).astype("float32"))
    zero = attention(x, paddle.zeros([1, 2, 3, 3])).numpy()
    np.testing.assert_array_equal(attention(x).numpy(), zero)
    assert not np.allclose(
        attention(x, paddle.to_tensor(RNG.normal(size=(1, 2, 3, 3)).astype("float32"))).numpy(), zero
    )


def test_attention_dropouts_act_in_training_only() -> None:
    x = paddle.ones([2, 3, 8])
    for options in ({"attn_drop": 0.9}, {"proj_drop": 0.9}):
        attention = Attention(8, num_heads=2, **options)
        randomize(attention, RNG)
        paddle.seed(0)
        attention.train()
        noisy = attention(x).numpy()
        attention.eval()
        assert not np.allclose(noisy, attention(x).numpy()), options


def test_mlp_uses_the_exact_gelu() -> None:
    mlp = Mlp(2, 3)
    randomize(mlp, RNG)
    x = RNG.normal(size=(1, 1, 2)).astype("float32")
    hidden = x @ mlp.fc1.weight.numpy() + mlp.fc1.bias.numpy()
    expected = gelu(hidden) @ mlp.fc2.weight.numpy() + mlp.fc2.bias.numpy()
    np.testing.assert_allclose(mlp(paddle.to_tensor(x)).numpy(), expected, atol=1e-6)


def test_drop_path_drops_per_sample_and_keeps_the_mean() -> None:
    """unilm's DropPath: x / keep * floor(keep + uniform), one number per sample."""
    paddle.seed(3)
    layer = DropPath(0.25)
    dropped = layer(paddle.ones([4000, 2, 3])).numpy()
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert (dropped == dropped[:, :1, :1]).all()  # whole samples
    assert abs(dropped.mean() - 1) < 0.05
    assert not DropPath(1.0)(paddle.ones([4, 2, 3])).numpy().any()
    x = paddle.randn([4, 2, 3])
    assert DropPath(0.0)(x) is x
    layer.eval()
    assert layer(x) is x


def test_block_drops_its_branches_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block(Attention(4, num_heads=2), dim=4, mlp_dim=8, drop_path_rate=0.5)
    x = paddle.randn([3, 5, 4])
    uniform = [paddle.to_tensor(values).reshape([3, 1, 1]) for values in ([0.1, 0.5, 0.9], [0.1, 0.2, 0.7])]
    monkeypatch.setattr(paddle, "rand", lambda shape: uniform.pop(0))
    y = block(x)
    np.testing.assert_array_equal(y[0].numpy(), x[0].numpy())
    attended = x + 2.0 * block.gamma_1 * block.attn(block.norm1(x))
    np.testing.assert_allclose(y[1].numpy(), attended[1].numpy(), atol=1e-6)
    both = attended + 2.0 * block.gamma_2 * block.mlp(block.norm2(attended))
    np.testing.assert_allclose(y[2].numpy(), both[2].numpy(), atol=1e-6)


def test_block_without_layer_scale_has_no_gammas() -> None:
    block = Block(Attention(4, num_heads=2), dim=4, mlp_dim=8, init_values=0.0)
    assert not [name for name, _ in block.named_parameters() if name.startswith("gamma")]
    block.eval()
    x = paddle.to_tensor(RNG.normal(size=(1, 3, 4)).astype("float32"))
    inside = x + block.attn(block.norm1(x))
    np.testing.assert_allclose(block(x).numpy(), (inside + block.mlp(block.norm2(inside))).numpy(), atol=1e-6)


def test_layer_scale_multiplies_both_branches() -> None:
    block = Block(Attention(4, num_heads=2), dim=4, mlp_dim=8, init_values=0.5)
    block.eval()
    x = paddle.to_tensor(RNG.normal(size=(1, 3, 4)).astype("float32"))
    inside = x + 0.5 * block.attn(block.norm1(x))
    np.testing.assert_allclose(
        block(x).numpy(), (inside + 0.5 * block.mlp(block.norm2(inside))).numpy(), atol=1e-6
    )


def test_patches_are_row_major_and_other_image_sizes_are_refused() -> None:
    embed = PatchEmbed((4, 6), patch_size=2, embed_dim=1)
    embed.proj.weight.set_value(np.full([1, 3, 2, 2], 1 / 12, "float32"))
    embed.proj.bias.set_value(np.zeros(1, "float32"))
    cells = np.arange(6).reshape(2, 3).repeat(2, 0).repeat(2, 1)
    images = paddle.to_tensor(np.broadcast_to(cells, (1, 3, 4, 6)).astype("float32"))
    np.testing.assert_allclose(embed(images).numpy().reshape(-1), np.arange(6), atol=1e-6)
    with pytest.raises(ValueError, match=r"takes images of 4x6 pixels, got 6x4.*DATA.IMAGE_SIZE = \(6, 4\)"):
        embed(paddle.zeros([1, 3, 6, 4]))


def test_initial_values() -> None:
    paddle.seed(1)
    linear = nn.Linear(300, 300)
    init_weights(linear)
    assert abs(float(linear.weight.std()) - 0.02) < 4e-4
    assert float(linear.weight.abs().max()) > 0.06  # truncation at two standard deviations would end at 0.04
    assert not linear.bias.numpy().any()
    truncated_normal(linear.weight, bound=0.02)
    assert float(linear.weight.abs().max()) <= 0.02
    conv = nn.Conv2D(3, 64, 4)
    init_uniform(conv)
    bound = 1 / math.sqrt(48)
    for parameter in (conv.weight, conv.bias):
        assert 0.9 * bound < float(parameter.abs().max()) <= bound
    linear = nn.Linear(200, 50)
    init_uniform(linear)
    for parameter in (linear.weight, linear.bias):
        assert 0.9 / math.sqrt(200) < float(parameter.abs().max()) <= 1 / math.sqrt(200)
    init_uniform(nn.Linear(3, 3, bias_attr=False))


def test_rescaling_divides_by_the_root_of_twice_the_depth() -> None:
    block = Block(Attention(4, num_heads=2), dim=4, mlp_dim=8)
    before = block.attn.proj.weight.numpy(), block.mlp.fc2.weight.numpy(), block.mlp.fc1.weight.numpy()
    rescale_block(block, 3)
    np.testing.assert_allclose(block.attn.proj.weight.numpy(), before[0] / math.sqrt(6), rtol=1e-6)
    np.testing.assert_allclose(block.mlp.fc2.weight.numpy(), before[1] / math.sqrt(6), rtol=1e-6)
    np.testing.assert_array_equal(block.mlp.fc1.weight.numpy(), before[2])
