"""The pre-training task: loss, gradients and optimizer steps against float64 NumPy, sums, groups, previews."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from beit import cpu
from beit.optim.groups import set_step
from beit.tasks import TASKS
from beit.train.loop import _clip
from tests.reference_numpy import predict_tokens, softmax, torch_layout
from tests.tiny import TINIEST_PRETRAIN, randomize, tiny_config, train_state

LR, BETAS, EPS, CLIP = 1e-2, (0.9, 0.98), 1e-8, 0.5
DECAY = TINIEST_PRETRAIN["TRAIN__WEIGHT_DECAY"]


def build(version=1, **keys):
    early = {"MODEL__EARLY_LAYERS": 1 if version == 2 else 0}
    return TASKS["pretrain"](tiny_config(**TINIEST_PRETRAIN | early | keys))


def draw_batch(rng, batch=3, tokens=True):
    mask = np.arange(batch * 4).reshape(batch, 4) % 3 == 1
    items = {"image": rng.standard_normal((batch, 3, 4, 4)), "mask": mask}
    items |= {"tokens": rng.integers(0, 5, (batch, 4))} if tokens else {}
    return items


def to_tensors(batch):
    return {name: paddle.to_tensor(value) for name, value in batch.items()}


@pytest.fixture
def double(monkeypatch):
    """Models and losses in float64; images are not normalized."""
    paddle.set_default_dtype("float64")
    monkeypatch.setattr(TASKS["pretrain"], "normalize", lambda self, images: images)
    astype = paddle.Tensor.astype
    keep = lambda tensor, dtype: tensor if dtype == "float32" else astype(tensor, dtype)  # noqa: E731
    monkeypatch.setattr(paddle.Tensor, "astype", keep)
    yield
    paddle.set_default_dtype("float32")


def reference_loss(state, batch, early):
    """Sum over the branches of the mean cross entropy."""
    targets = batch["tokens"][batch["mask"]]
    branches = predict_tokens(torch_layout(state), batch["image"], batch["mask"], 2, early)
    return [-np.log(softmax(logits)[np.arange(len(targets)), targets]).mean() for logits in branches]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.usefixtures("double")
def test_ten_steps_follow_a_float64_reference(version):
    """Compare the loss of each step, the gradient of each tensor (as a directional difference) and AdamW with NumPy."""
    rng = np.random.default_rng(version)
    task = build(version)
    randomize(task.model, rng)
    groups = task.param_groups()
    optimizer = paddle.optimizer.AdamW(
        learning_rate=LR, parameters=groups, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPS
    )
    decays = {parameter.name: group["decays"] for group in groups for parameter in group["params"]}
    weights = {name: value.numpy().copy() for name, value in task.model.named_parameters()}
    moments = {name: np.zeros((2, *value.shape)) for name, value in weights.items()}
    for step in range(1, 11):
        batch = draw_batch(rng)
        set_step(optimizer, LR / step, DECAY)
        scalars = task(to_tensors(batch), rng)
        losses = reference_loss(weights, batch, early=version - 1)
        assert float(scalars["loss"]) == pytest.approx(sum(losses), rel=1e-10)
        scalars["loss"].backward()
        norm = math.sqrt(sum(float((p.grad.numpy() ** 2).sum()) for p in task.model.parameters()))
        raw = {name: value.grad.numpy().copy() for name, value in task.model.named_parameters()}
        _clip(train_state(task, optimizer), CLIP)
        optimizer.step()
        optimizer.clear_grad()
        before = dict(weights)
        for name, parameter in task.model.named_parameters():
            direction = rng.standard_normal(parameter.shape)
            shifted = [
                sum(reference_loss({**before, name: before[name] + h * direction}, batch, version - 1))
                for h in (1e-6, -1e-6)
            ]
            slope = (shifted[0] - shifted[1]) / 2e-6
            assert (raw[name] * direction).sum() == pytest.approx(slope, rel=1e-5, abs=1e-8), name
            gradient = raw[name] * min(1.0, CLIP / (norm + 1e-6))
            first, second = moments[name]
            first += (1 - BETAS[0]) * (gradient - first)
            second += (1 - BETAS[1]) * (gradient**2 - second)
            update = first / (1 - BETAS[0] ** step) / (np.sqrt(second / (1 - BETAS[1] ** step)) + EPS)
            weights[name] = (
                weights[name] * (1 - LR / step * DECAY * decays[parameter.name]) - LR / step * update
            )
            np.testing.assert_allclose(parameter.numpy(), weights[name], rtol=1e-8, atol=1e-10, err_msg=name)


def test_v1_logs_loss_and_accuracy_of_the_masked_patches():
    rng = np.random.default_rng(3)
    task, batch = build(), to_tensors(draw_batch(rng))
    batch["image"] = (batch["image"] * 50 + 100).astype("uint8")
    scalars = task(batch, rng)
    assert list(scalars) == ["loss", "mlm_acc"]
    logits = task.model((batch["image"].astype("float32") / 255 - 0.5) / 0.5, batch["mask"]).numpy()
    right = logits.argmax(-1) == batch["tokens"].numpy()[batch["mask"].numpy()]
    assert float(scalars["mlm_acc"]) == pytest.approx(right.mean())
    assert float(scalars["loss"]) == pytest.approx(math.log(5), abs=0.1)


def test_v2_logs_both_branches_and_minimizes_their_sum():
    rng = np.random.default_rng(4)
    scalars = build(2)(to_tensors(draw_batch(rng)), rng)
    assert list(scalars) == ["loss", "loss_main", "loss_cls_pt", "mlm_acc", "mlm_acc_cls_pt"]
    assert float(scalars["loss"]) == pytest.approx(
        float(scalars["loss_main"]) + float(scalars["loss_cls_pt"])
    )
    assert not scalars["loss"].stop_gradient
    assert scalars["loss_main"].stop_gradient


@pytest.mark.parametrize("version", [1, 2])
def test_a_step_does_not_synchronize_with_the_device(version, monkeypatch):
    rng = np.random.default_rng(9)
    task, batch = build(version), draw_batch(rng)
    batch["image"] = (batch["image"] * 50 + 100).astype("uint8")
    asking = task(to_tensors(batch), rng)
    batch = to_tensors(task.prepare(batch))
    np.testing.assert_array_equal(batch["masked_indices"].numpy(), [1, 4, 7, 10])
    index = paddle.Tensor.__getitem__

    def refuse(*arguments, **options):
        raise AssertionError("the host waits for the device")

    def index_by_host(tensor, item):
        items = item if isinstance(item, tuple) else (item,)
        assert not any(isinstance(one, paddle.Tensor) and one.dtype == paddle.bool for one in items)
        return index(tensor, item)

    with monkeypatch.context() as patch:
        for name in ("numpy", "item", "tolist", "nonzero", "__float__", "__int__", "__bool__"):
            patch.setattr(paddle.Tensor, name, refuse)
        patch.setattr(paddle.Tensor, "__getitem__", index_by_host)
        scalars = task(batch, rng)
        scalars["loss"].backward()
    assert scalars.keys() == asking.keys()
    for name, value in asking.items():  # the matrix library rounds by the alignment of its operands
        assert float(scalars[name]) == pytest.approx(float(value), rel=1e-6), name


@pytest.mark.parametrize("version", [1, 2])
def test_evaluation_does_not_depend_on_the_batch_size(version):
    rng = np.random.default_rng(5)
    task, batch = build(version), to_tensors(draw_batch(rng, batch=6))
    batch["image"] = (batch["image"] * 50 + 100).astype("uint8")
    task.eval()
    whole = {name: float(value) for name, value in task.eval_step(batch).items()}
    parts = [task.eval_step({name: value[k : k + 2] for name, value in batch.items()}) for k in (0, 2, 4)]
    for name, value in whole.items():
        assert sum(float(part[name]) for part in parts) == pytest.approx(value, rel=1e-6), name
    assert (whole["count"], whole["tokens"]) == (6, 8)
    metrics = task.metrics(whole)
    assert metrics["loss"] == pytest.approx(sum(v for k, v in whole.items() if k.startswith("loss_")) / 8)
    assert ("loss_main" in metrics) == ("mlm_acc_cls_pt" in metrics) == (version == 2)
    assert task.selection_metric(metrics) == metrics["mlm_acc"]


def test_groups_have_no_layer_decay_and_the_official_exemptions():
    task = build(2, MODEL__USE_ABS_POS_EMB=True)
    groups = task.param_groups()
    assert {group["learning_rate"] for group in groups} == {1.0}
    names = {parameter.name: name for name, parameter in task.model.named_parameters()}
    decaying = {names[p.name] for group in groups if group["decays"] for p in group["params"]}
    assert {"mask_token", "rel_pos_bias.relative_position_bias_table", "lm_head.weight"} <= decaying
    assert "cls_pt_layers.1.attn.qkv.weight" in decaying
    exempt = set(names.values()) - decaying
    assert {"cls_token", "pos_embed", "norm.weight", "lm_head.bias", "blocks.0.gamma_1"} <= exempt
    assert all(
        name in ("cls_token", "pos_embed") or task.model.state_dict()[name].ndim == 1 for name in exempt
    )


def test_the_tokenizer_is_frozen_and_in_no_checkpoint():
    task = build()
    task.train()
    tokenizer = task._frozen[0]
    assert not tokenizer.training
    own = {parameter.name for parameter in tokenizer.parameters()}
    assert own.isdisjoint(parameter.name for parameter in task.parameters())
    assert not any("encoder" in name for name in task.state_dict())


def test_tokens_come_from_the_second_view_in_0_to_1(monkeypatch):
    rng = np.random.default_rng(6)
    task, batch = build(), to_tensors(draw_batch(rng, tokens=False))
    batch["image"] = (batch["image"] * 50 + 100).astype("uint8")
    batch["second"] = paddle.to_tensor(rng.integers(0, 256, (3, 3, 16, 16)).astype("uint8"))
    seen = []

    class Tokenizer:
        def encode(self, images):
            seen.append(images)
            return paddle.zeros([len(images), 4], "int64")

    monkeypatch.setattr(task, "_frozen", (Tokenizer(),))
    monkeypatch.setattr(cpu, "_num_threads", 1)  # `encode` is called once
    task(batch, rng)
    np.testing.assert_allclose(seen[0].numpy(), batch["second"].numpy() / 255.0, rtol=1e-6)


def test_images_show_original_mask_and_decoded_tokens(tmp_path):
    rng = np.random.default_rng(7)
    task = build()
    batch = to_tensors(draw_batch(rng))
    batch["image"] = paddle.to_tensor(rng.integers(0, 256, (3, 3, 4, 4)).astype("uint8"))
    preview = task.preview(batch)
    assert (preview.shape, preview.dtype) == ((12, 12, 3), np.uint8)  # original, masked, decoded
    np.testing.assert_array_equal(preview[:4, :4].transpose(2, 0, 1), batch["image"][0].numpy())
    masked = batch["mask"].numpy()[0].reshape(2, 2).repeat(2, 0).repeat(2, 1)
    assert np.all(preview[:4, 4:8][masked] == 127)
    np.testing.assert_array_equal(preview[:4, 4:8][~masked], preview[:4, :4][~masked])
    task.eval()
    (drawn,) = task.write_report(tmp_path, {}, batch).values()
    assert drawn.shape == (12, 16, 3)  # and the decoded prediction
    np.testing.assert_array_equal(drawn[:, :12], preview)


@pytest.mark.parametrize("tokenizer", ["dall-e", "vqkd"])
def test_a_tokenizer_without_weights_is_refused(tokenizer):
    """Before any data are read, so that `check` and every run report it."""
    with pytest.raises(ValueError, match="TOKENIZER.PRETRAINED names no file.* set it to trained weights"):
        build(TOKENIZER__ALLOW_RANDOM=False, TOKENIZER__TYPE=tokenizer)
