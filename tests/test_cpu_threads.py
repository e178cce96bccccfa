"""A batch that is split among threads gives the results of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import paddle
import pytest

from beit import cpu
from beit.beit import build_beit
from beit.config import get_config
from tests.tiny import ROOT

OPTIONS = ["MODEL.DEPTH", 2, "DATA.IMAGE_SIZE", 32, "MODEL.NUM_CLASSES", 5]


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_num_threads", 2)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_equal_those_of_the_whole_batch(batch: int, two_threads: None) -> None:
    model = build_beit(get_config("beit_tiny_patch16_224", OPTIONS))
    model.eval()
    images = paddle.randn([batch, 3, 32, 32])
    with paddle.no_grad():
        whole = model(images)
    np.testing.assert_allclose(cpu.split_batch(model, images).numpy(), whole.numpy(), atol=1e-6)


def test_parts_threads_and_gradients(two_threads: None) -> None:
    seen: dict[str, tuple[int, bool]] = {}
    both = threading.Barrier(2, timeout=120)

    def function(part: paddle.Tensor) -> paddle.Tensor:
        both.wait()
        seen[threading.current_thread().name] = (part.shape[0], paddle.is_grad_enabled())
        return 2 * part

    images = paddle.arange(15, dtype="float32").reshape([5, 3])
    assert paddle.is_grad_enabled()
    doubled = cpu.split_batch(function, images)
    assert doubled.tolist() == (2 * images).tolist()
    assert sorted(seen.values()) == [(2, False), (3, False)]
    assert all(name.startswith("beit-part") for name in seen)
    assert paddle.is_grad_enabled()


def test_an_error_in_a_thread_is_raised(two_threads: None) -> None:
    def function(part: paddle.Tensor) -> paddle.Tensor:
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        cpu.split_batch(function, paddle.zeros([4, 3]))


@pytest.mark.parametrize("threads", [1, 2])
def test_matrix_products_in_a_thread_use_one_core(threads: int) -> None:
    """Matrix products after `split_batch` use all cores again."""
    code = (
        "import paddle; from beit import cpu as c; c.tune_cpu()\n"
        "count = lambda: [library.omp_get_max_threads() for library in c._openmp()]\n"
        "inside = []\n"
        "c.split_batch(lambda part: (inside.append(count()), part)[1], paddle.zeros([4, 1]))\n"
        "print(c._num_threads, {n for one in inside for n in one}, set(count()))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split(" ", 1)[0] == str(threads)
    assert ended.stdout.strip().endswith(f"{{1}} {{{threads}}}")


def test_without_tune_cpu_or_with_the_switch_off_it_is_one_call() -> None:
    """`BEIT_TUNE_CPU=0` changes no threads, environment variables or flags."""
    code = (
        "import os, threading, paddle; from beit import cpu\n"
        "before = dict(os.environ); cpu.before_paddle(); line = cpu.tune_cpu()\n"
        "seen = []\n"
        "cpu.split_batch(lambda part: (seen.append((list(part.shape), threading.current_thread().name)), part)[1], paddle.zeros([4, 1]))\n"
        "assert dict(os.environ) == before and line.startswith('CPU settings unchanged'), line\n"
        "assert paddle.get_flags('FLAGS_use_stride_kernel') == {'FLAGS_use_stride_kernel': True}\n"
        "print(seen)\n"
    )
    variables = {**os.environ, "BEIT_TUNE_CPU": "0", "OMP_NUM_THREADS": "2"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=variables, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "[([4, 1], 'MainThread')]", ended.stderr
