"""Gradient clipping, and the branches of the loop for GPUs."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.data.batch_transforms import to_device
from beit.logging import RunLog
from beit.tasks import Task
from beit.train import loop, run
from tests.tiny import tiny_config, train_state


def test_gradients_are_clipped_to_a_global_norm() -> None:
    values = [np.random.default_rng(seed).normal(size=(40, 30)).astype("float32") for seed in range(3)]

    task = Task()
    task.config = tiny_config()
    task.layers = paddle.nn.LayerList([paddle.nn.Linear(40, 30, bias_attr=False) for _ in range(4)])
    optimizer = paddle.optimizer.SGD(parameters=task.parameters())
    expected = np.sqrt(sum((value.astype("float64") ** 2).sum() for value in values))
    for limit, factor in ((None, 1.0), (0.0, 1.0), (5.0, 5.0 / expected), (100.0, 1.0)):
        task.clear_gradients()
        for layer, value in zip(task.layers, values, strict=False):  # the last layer has no gradient
            (layer.weight * paddle.to_tensor(value)).sum().backward()
        norm = loop._clip(train_state(task, optimizer), limit)
        assert float(norm) == pytest.approx(expected, rel=1e-6)
        for layer, value in zip(task.layers, values, strict=False):
            np.testing.assert_allclose(layer.weight.grad.numpy(), value * factor, rtol=1e-5, atol=1e-7)


def test_batches_are_copied_to_a_gpu_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def cuda(tensor: paddle.Tensor, device_id: object = None, blocking: bool = True) -> paddle.Tensor:
        waits.append(blocking)
        return tensor

    batch = {"image": np.arange(6, dtype="uint8").reshape(2, 3), "label": np.array([1, 2])}
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle, "CUDAPinnedPlace", paddle.CPUPlace)
    monkeypatch.setattr(paddle.Tensor, "cuda", cuda)
    tensors = to_device(batch)
    assert waits == [False, False]
    for name, array in batch.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)
        assert tensors[name].numpy().dtype == array.dtype


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_the_type_of_mixed_precision_depends_on_the_gpu(
    has_bfloat16: bool, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda device: has_bfloat16)
    log = RunLog(None, 0)
    assert run._amp_dtype(tiny_config(AMP=True), "gpu", log) == dtype
    assert run._amp_dtype(tiny_config(AMP=False), "gpu", log) is None
    assert capsys.readouterr().out == ""  # no warning
