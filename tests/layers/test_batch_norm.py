from __future__ import annotations

import numpy as np
import paddle

from beit.layers.batch_norm import SyncBatchNorm
from beit.parallel.launch import launch
from tests.layers import batch_norm_ranks


def test_two_ranks_normalize_as_one_process_does_the_joint_batch(tmp_path):
    status = launch(batch_norm_ranks.worker, (str(tmp_path),), ranks=2, device="cpu", grace=5.0)
    assert status == 0
    alone = batch_norm_ranks.train(0, 1)
    for rank in range(2):
        got = np.load(tmp_path / f"{rank}.npz")
        for name in ("output", "input_grad"):
            np.testing.assert_allclose(got[name], alone[name][rank::2], atol=2e-5, err_msg=name)
        for name in ("weight_grad", "bias_grad", "mean", "variance"):
            np.testing.assert_allclose(got[name], alone[name], rtol=1e-5, atol=1e-4, err_msg=name)


def test_one_rank_is_batch_norm_in_training_and_evaluation():
    norm = SyncBatchNorm(2)
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype("float32")
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    expected = (x - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    np.testing.assert_allclose(norm(paddle.to_tensor(x)).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(norm._mean.numpy(), 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(norm._variance.numpy(), 0.9 + 0.1 * var, atol=1e-6)
    norm.eval()
    expected = (x - 0.1 * mean[:, None, None]) / np.sqrt(0.9 + 0.1 * var + 1e-5)[:, None, None]
    np.testing.assert_allclose(norm(paddle.to_tensor(x)).numpy(), expected, atol=1e-5)
    assert list(norm.state_dict()) == ["weight", "bias", "_mean", "_variance"]
