"""Parts of a batch in threads give what the whole batch gives."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import paddle
import pytest

from beit import cpu_threads
from beit.beit import build_beit
from beit.config import get_config
from tests.stories import ROOT

OPTIONS = ["MODEL.DEPTH", 2, "DATA.IMAGE_SIZE", 32, "MODEL.NUM_CLASSES", 5]


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_threads, "threads", lambda: 2)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_are_those_of_the_whole_batch(batch: int, two_threads: None) -> None:
    model = build_beit(get_config("beit_tiny_patch16_224", OPTIONS))
    model.eval()
    images = paddle.randn([batch, 3, 32, 32])
    with paddle.no_grad():
        whole = model(images)
    np.testing.assert_allclose(cpu_threads.divided(model, images).numpy(), whole.numpy(), atol=1e-6)


def test_parts_threads_and_gradients(two_threads: None) -> None:
    seen: dict[str, tuple[int, bool]] = {}
    both = threading.Barrier(2, timeout=10)

    def function(part: paddle.Tensor) -> paddle.Tensor:
        both.wait()
        seen[threading.current_thread().name] = (part.shape[0], paddle.is_grad_enabled())
        return 2 * part

    images = paddle.arange(15, dtype="float32").reshape([5, 3])
    assert paddle.is_grad_enabled()
    doubled = cpu_threads.divided(function, images)
    assert doubled.tolist() == (2 * images).tolist()
    assert sorted(seen.values()) == [(2, False), (3, False)]
    assert all(name.startswith("beit-part") for name in seen)
    assert paddle.is_grad_enabled()


def test_an_error_of_a_part_arrives(two_threads: None) -> None:
    def function(part: paddle.Tensor) -> paddle.Tensor:
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        cpu_threads.divided(function, paddle.zeros([4, 3]))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_of_the_environment_are_kept_to(threads: int) -> None:
    """A matrix product in a part runs in one thread, later ones of the process in all again."""
    code = (
        "import ctypes, paddle; from beit import cpu_threads as c; paddle.matmul(paddle.ones([9, 9]), paddle.ones([9, 9]))\n"
        "count = lambda: [library.omp_get_max_threads() for library in c._openmp()]\n"
        "inside = []\n"
        "c.divided(lambda part: (inside.append(count()), part)[1], paddle.zeros([4, 1]))\n"
        "print(c.threads(), {n for one in inside for n in one}, set(count()))\n"
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


@pytest.mark.parametrize("is_tuned", [False, True])
def test_each_tensor_in_order_without_gradients(
    is_tuned: bool, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    monkeypatch.setattr(cpu_threads._settings, "divides_blocks", is_tuned)
    monkeypatch.setattr(cpu_threads, "LEAST_VALUES", 1)
    tensors = [paddle.full([2], float(number)) for number in range(9)]
    for one in tensors:
        one.stop_gradient = False
    threads_seen = set()

    def double(one: paddle.Tensor) -> paddle.Tensor:
        threads_seen.add(threading.current_thread().name)
        return 2 * one

    doubled = cpu_threads.each(double, tensors)
    assert [one.tolist() for one in doubled] == [[2.0 * n, 2.0 * n] for n in range(9)]
    assert all(one.stop_gradient for one in doubled)
    assert all(name.startswith("beit-part") for name in threads_seen) is is_tuned
    assert cpu_threads.each(double, []) == []


def test_parts_are_not_divided_again(two_threads: None) -> None:
    sizes: list[list[int]] = []
    cpu_threads.divided(
        lambda part: (sizes.append(cpu_threads.part_sizes(part)), part)[1], paddle.zeros([4, 3])
    )
    assert sizes == [[2], [2]]


@pytest.mark.parametrize(("least", "expected"), [(10, []), (11, [1])])
def test_small_models_take_one_thread(
    least: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(cpu_threads, "set_threads", taken.append)
    monkeypatch.setattr(cpu_threads, "LEAST_VALUES", least)
    monkeypatch.setattr(cpu_threads._settings, "divides_blocks", True)
    cpu_threads.suit_small_models([paddle.zeros([2, 3]), paddle.zeros([4])])
    assert taken == expected
