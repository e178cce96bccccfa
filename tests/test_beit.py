"""The encoder: sizes, options, initial values, state dicts, builders."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import paddle
import pytest

from beit import build_backbone, build_beit, build_head
from beit.beit import Beit
from beit.config import get_config
from tests.tiny import noise_images, randomize, tiny_config


def tiny(**keys: Any) -> Beit:
    return build_beit(tiny_config(**{"MODEL__DROPPATH": 0.0} | keys))


def images(size: tuple[int, int] = (16, 16), batch: int = 2) -> paddle.Tensor:
    return paddle.to_tensor(noise_images(size=size, batch=batch))


PARAMETERS = {  # published counts: timm results, unilm README (recipe notes)
    "beit_base_patch16_224": 86_530_984,
    "beit_base_patch16_384": 86_744_104,
    "beit_large_patch16_224": 304_430_568,
    "beit_large_patch16_384": 304_998_888,
    "beit_large_patch16_512": 305_674_728,
    "beitv2_base_patch16_224": 86_530_984,
    "beitv2_large_patch16_224": 304_430_568,
    "beit_base_patch16_224_pt22k_ft22k": 102_557_713,
    "beit_large_patch16_224_pt22k_ft22k": 325_792_593,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    config = get_config(name)
    full, depth = PARAMETERS[name], config.MODEL.DEPTH
    # The count is linear in the depth, so two shallow models determine that of the deep one.
    one, two = (
        sum(math.prod(p.shape) for p in build_beit(get_config(name, ["MODEL.DEPTH", d])).parameters())
        for d in (1, 2)
    )
    assert one + (depth - 1) * (two - one) == full


def test_base_has_the_199_published_tensors_in_order() -> None:
    names = list(build_beit(get_config(None, ["MODEL.EMBED_DIM", 12])).state_dict())
    assert len(names) == 199
    assert sorted(name for name in names if "blocks" not in name) == [
        "cls_token", "fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight", "patch_embed.proj.bias", "patch_embed.proj.weight",
    ]  # fmt: skip
    assert {name.split(".", 2)[2] for name in names if name.startswith("blocks.11.")} == {
        "gamma_1", "gamma_2", "norm1.weight", "norm1.bias", "attn.q_bias", "attn.v_bias", "attn.qkv.weight", "attn.proj.weight",
        "attn.relative_position_bias_table", "attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias",
        "mlp.fc2.weight", "mlp.fc2.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    "keys",
    [
        {"DATA__IMAGE_SIZE": [16, 24]},
        {"MODEL__USE_REL_POS_BIAS": False},
        {"MODEL__USE_REL_POS_BIAS": False, "MODEL__USE_SHARED_REL_POS_BIAS": True},
        {"MODEL__USE_SHARED_REL_POS_BIAS": True},
        {"MODEL__USE_ABS_POS_EMB": True},
        {"MODEL__INIT_VALUES": 0},
        {"MODEL__USE_MEAN_POOLING": False},
        {"MODEL__QKV_BIAS": False},
        {"MODEL__ATTN_HEAD_SIZE": 5},
        {"MODEL__NUM_HEADS": 4},
        {"MODEL__MLP_RATIO": 2.5},
        {"MODEL__PATCH_SIZE": 4},
        {"MODEL__QK_SCALE": 0.3},
        {"MODEL__NUM_CLASSES": 21841},
    ],
    ids=str,
)
def test_every_architecture_option_changes_the_logits(keys: dict[str, Any]) -> None:
    model = randomize(tiny(**keys), scale=0.2)
    logits = model(images(size=model.patch_embed.image_size))
    assert list(logits.shape) == [2, keys.get("MODEL__NUM_CLASSES", 3)]
    default = randomize(tiny(), scale=0.2)(images())
    assert list(default.shape) != list(logits.shape) or not np.allclose(default.numpy(), logits.numpy())


@pytest.mark.parametrize(
    "keys", [{"MODEL__DROPOUT": 0.5}, {"MODEL__ATTENTION_DROPOUT": 0.5}, {"MODEL__DROPPATH": 0.5}], ids=str
)
def test_every_regularizer_acts_in_training_only(keys: dict[str, float]) -> None:
    model = randomize(tiny(**keys))
    model.eval()
    x = images(batch=8)
    quiet = model(x).numpy()
    np.testing.assert_array_equal(quiet, model(x).numpy())
    np.testing.assert_array_equal(quiet, randomize(tiny())(x).numpy())
    model.train()
    paddle.seed(0)
    assert not np.allclose(quiet, model(x).numpy())


def test_drop_path_rises_linearly() -> None:
    rates = [block.drop_path.rate for block in tiny(MODEL__DEPTH=5, MODEL__DROPPATH=0.2).blocks]
    np.testing.assert_allclose(rates, [0.0, 0.05, 0.1, 0.15, 0.2])


def test_initial_head_is_scaled_and_projections_shrink_with_depth() -> None:
    paddle.seed(0)
    sizes = {"MODEL__EMBED_DIM": 96, "MODEL__DEPTH": 3}
    model = tiny(**sizes)
    assert abs(float(model.head.weight.std()) - 0.02 * 0.001) < 2e-6
    assert float(tiny(**sizes, MODEL__INIT_SCALE=1.0).head.weight.std()) > 0.015
    for number, block in enumerate(model.blocks, start=1):
        for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
            assert abs(float(weight.std()) * math.sqrt(2 * number) - 0.02) < 1e-3
        assert abs(float(block.mlp.fc1.weight.std()) - 0.02) < 1e-3
        assert set(block.gamma_1.numpy()) == {np.float32(0.1)}
        assert not block.attn.relative_position_bias_table.numpy().any()
        assert not block.attn.q_bias.numpy().any()


def test_layer_ids() -> None:
    model = tiny(MODEL__USE_ABS_POS_EMB=True, MODEL__USE_SHARED_REL_POS_BIAS=True)
    expected = {
        "cls_token": 0,
        "mask_token": 0,
        "pos_embed": 0,
        "patch_embed.proj.bias": 0,
        "blocks.0.gamma_1": 1,
    }
    expected |= {
        "blocks.1.mlp.fc1.weight": 2,
        "rel_pos_bias.relative_position_bias_table": 3,
        "fc_norm.bias": 3,
    }
    expected |= {"head.weight": 3, "norm.weight": 3}
    assert {name: model.layer_id(name) for name in expected} == expected


def test_freezing_stops_the_first_layers() -> None:
    model = tiny()
    model.freeze_layers(2)
    assert {
        model.layer_id(name) for name, parameter in model.named_parameters() if parameter.stop_gradient
    } == {0, 1}
    model(images()).sum().backward()
    assert model.blocks[0].mlp.fc1.weight.grad is None
    assert model.blocks[1].mlp.fc1.weight.grad is not None


def test_features_of_chosen_layers() -> None:
    model = randomize(tiny(MODEL__DEPTH=3))
    last, first = model.forward_outputs(images(), hidden_states=[2, 0], final=False).hidden_states
    assert list(last.shape) == list(first.shape) == [2, 5, 24]
    np.testing.assert_array_equal(model.head(model.pool(last)).numpy(), model(images()).numpy())
    with pytest.raises(ValueError, match=r"blocks \[3\] do not exist; the model has blocks 0 to 2"):
        model.forward_outputs(images(), hidden_states=[3])


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_recomputation_gives_the_same_gradients(frozen: int) -> None:
    gradients = []
    for flag in (False, True):
        model = randomize(tiny(TRAIN__RECOMPUTE=flag, MODEL__DROPPATH=0.5))
        model.train()
        model.freeze_layers(frozen)
        paddle.seed(5)
        model(images(batch=4)).square().sum().backward()
        gradients.append(
            {name: p.grad.numpy() for name, p in model.named_parameters() if not p.stop_gradient}
        )
    for name, gradient in gradients[0].items():
        np.testing.assert_array_equal(gradient, gradients[1][name], err_msg=name)


def published_form(model: Any) -> dict[str, Any]:
    """The state dict that PaddleViT publishes: the tensors of the model and an int64 index for each block."""
    state = dict(model.state_dict())
    for i in range(model.depth):
        state[f"blocks.{i}.attn.relative_position_index"] = paddle.zeros([5, 5], dtype="int64")
    return state


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s, "epoch": 1}, lambda s: {"model": {}, "model_ema": s}]
)
@pytest.mark.parametrize("method", ["set_state_dict", "set_dict", "load_dict"])
def test_state_dicts_of_paddlevit_load_without_a_warning(wrap: Any, method: str, tmp_path: Any) -> None:
    source, target = randomize(tiny()), tiny()
    paddle.save(wrap(published_form(source)), str(tmp_path / "weights.pdparams"))
    result = getattr(target, method)(paddle.load(str(tmp_path / "weights.pdparams")))
    assert result == ([], [])
    target.eval()
    np.testing.assert_array_equal(target(images()).numpy(), source(images()).numpy())


def test_missing_and_unexpected_keys_are_returned() -> None:
    state = published_form(tiny())
    del state["head.bias"]
    state["extra"] = paddle.zeros([1])
    with pytest.warns(UserWarning, match="head.bias is not found"):
        assert tiny().set_state_dict(state) == (["head.bias"], ["extra"])


def test_backbone_and_head_compose_to_the_model() -> None:
    config = tiny_config()
    paddle.seed(11)
    model = build_beit(config)
    paddle.seed(11)
    backbone, head = build_backbone(config), build_head(config)
    model.eval()
    backbone.eval()
    assert list(backbone(images()).shape) == [2, 24]
    np.testing.assert_array_equal(head(backbone(images())).numpy(), model(images()).numpy())
    with pytest.raises(ValueError, match=r"MODEL.NUM_CLASSES = 0 has no head"):
        build_head(get_config(None, ["MODEL.NUM_CLASSES", 0]))


def test_importing_the_package_does_not_import_paddle() -> None:
    code = "import sys, beit, beit.config, beit.data.dataset; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("recompute", [False, True])
def test_backward_twice_and_paddle_grad_give_the_gradients_of_one_backward(recompute: bool) -> None:
    model = tiny(TRAIN__RECOMPUTE=recompute, MODEL__DROPPATH=0.0)
    model.train()
    table = model.blocks[0].attn.relative_position_bias_table
    model(images()).square().sum().backward()
    once = table.grad.numpy()
    assert np.abs(once).max() > 0
    model.clear_gradients()
    loss = model(images()).square().sum()
    if not recompute:  # Paddle frees what recomputation keeps at the first backward pass
        loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_allclose(table.grad.numpy(), once if recompute else 2 * once, rtol=1e-4, atol=1e-7)
    if not recompute:
        (gradient,) = paddle.grad(model(images()).square().sum(), [table])
        np.testing.assert_allclose(gradient.numpy(), once, rtol=1e-4, atol=1e-7)
