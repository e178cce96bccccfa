"""Parts of the loop whose other branch needs a GPU, and the gradient norm."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from beit.data.batch_transforms import to_device
from beit.train import loop, run


def test_norm_and_clipping_are_those_of_all_gradients_together() -> None:
    values = [np.random.default_rng(seed).normal(size=(40, 30)).astype("float32") for seed in range(3)]

    def run() -> SimpleNamespace:
        parameters = [
            paddle.create_parameter([40, 30], "float32") for _ in range(4)
        ]  # the last has no gradient
        for parameter, value in zip(parameters, values, strict=False):
            (parameter * paddle.to_tensor(value)).sum().backward()
        return SimpleNamespace(task=SimpleNamespace(parameters=lambda: parameters), optimizer=None)

    expected = np.sqrt(sum((value.astype("float64") ** 2).sum() for value in values))
    for limit, factor in ((None, 1.0), (0.0, 1.0), (5.0, 5.0 / expected), (100.0, 1.0)):
        sample = run()
        norm = loop._clip(sample, limit)
        assert float(norm) == pytest.approx(expected, rel=1e-6)
        for parameter, value in zip(sample.task.parameters(), values, strict=False):
            np.testing.assert_allclose(parameter.grad.numpy(), value * factor, rtol=1e-5, atol=1e-7)


def test_batches_reach_a_gpu_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_mixed_precision_takes_what_the_gpu_has(
    has_bfloat16: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda device: has_bfloat16)
    log = SimpleNamespace(text=pytest.fail)
    assert run._amp_dtype(SimpleNamespace(AMP=True), "gpu", log) == dtype
    assert run._amp_dtype(SimpleNamespace(AMP=False), "gpu", log) is None
