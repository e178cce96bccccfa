"""Blocks run on parts of the tokens of one image, a thread for each, without gradients, on a CPU.

All that a block does to a token needs no other one, but for the keys and values of attention: those are exchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import paddle
from paddle import Tensor, nn

from beit import cpu_threads

# n of N tokens, H heads, d channels per head, D width

_LEAST_TOKENS = 64
"""Of a part: matrix products of fewer rows are slower than the cores they would gain."""

_team_is_busy = threading.Lock()
_thread = threading.local()


class _Team:
    """Threads that run the same blocks on parts of the tokens."""

    def __init__(self, parts: int) -> None:
        self._barrier = threading.Barrier(parts)
        self._rooms: list[list[tuple[Tensor, ...]]] = [[()] * parts, [()] * parts]
        self._turns = [0] * parts

    def exchange(self, number: int, own: tuple[Tensor, ...]) -> list[Tensor]:
        """What all parts have brought, each `[1, H, n, d]`, as `[1, H, N, d]`."""
        # Two rooms in turn: nobody can be further ahead than that.
        room = self._rooms[self._turns[number] % 2]
        self._turns[number] += 1
        room[number] = own
        self._barrier.wait()
        return [paddle.concat(parts, axis=2) for parts in zip(*room, strict=True)]

    def give_up(self) -> None:
        """Wake those who wait for a part that has failed."""
        self._barrier.abort()


def of_all_tokens(*own: Tensor) -> Sequence[Tensor]:
    """Keys and values `[1, H, N, d]` of all tokens, of those `[1, H, n, d]` of this thread; outside of a part its arguments."""
    membership = getattr(_thread, "membership", None)
    if membership is None:
        return own
    team, number = membership
    return team.exchange(number, own)


def run_by_tokens(
    function: Callable[..., list[Tensor]], x: Tensor, blocks: Sequence[nn.Layer]
) -> list[Tensor] | None:
    """`function(x)` of x `[B, N, D]`, computed in parts of the tokens; None where it is not to be divided.

    That is with gradients, of several images (divide those), while a graph is traced, where `beit.tune_cpu()` was not
    called, while another thread is at it, and where forward hooks would see the parts.

    Args:
        function: from tokens `[1, n, D]` to tensors `[1, n, …]`; `rows`, a slice, says which of the N they are.
        blocks: what the function runs.
    """
    if not cpu_threads.divides_blocks() or not paddle.in_dynamic_mode() or paddle.is_grad_enabled():
        return None
    if x.shape[0] > 1 or cpu_threads.is_watched(blocks):
        return None
    sizes = cpu_threads.part_sizes(x, axis=1, at_least=_LEAST_TOKENS)
    # Members of two teams in one pool would wait for each other.
    if len(sizes) < 2 or not _team_is_busy.acquire(blocking=False):
        return None
    try:
        team = _Team(len(sizes))

        def run(item: tuple[int, Tensor]) -> list[Tensor]:
            number, tokens = item
            first = sum(sizes[:number])
            _thread.membership = team, number
            try:
                with paddle.no_grad():
                    return function(tokens, rows=slice(first, first + sizes[number]))
            except threading.BrokenBarrierError:
                return []  # another part has failed, and says why
            except BaseException:
                team.give_up()
                raise
            finally:
                _thread.membership = None

        states = cpu_threads.in_threads(run, list(enumerate(x.split(sizes, axis=1))))
    finally:
        _team_is_busy.release()
    return [paddle.concat(parts, axis=1) for parts in zip(*states, strict=True)]
