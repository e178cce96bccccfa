"""The codebook of VQ-KD: unit vectors that move towards the features assigned to them."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.parallel import ranks

# B batch, N patches, M = B * N feature vectors, K codes, C channels of a code

KMEANS_ITERATIONS = 10
"""Iterations of the k-means that initializes the codebook; as unilm/beit2/norm_ema_quantizer.py."""
_CHUNK = 1 << 14  # feature vectors per matrix product with the codes: 512 MiB of similarities for K = 8192


class NormEmaQuantizer(nn.Layer):
    """Nearest code of each L2-normalized feature vector; codes move towards the mean of their features.

    There is no codebook loss: the moving average of the codes replaces the term of the paper's objective that pulls the
    codes towards the features. The gradient passes through the quantizer unchanged (straight-through estimator). In
    training, every call updates the codebook.
    Source: arXiv 2208.06366, section 2.2; unilm/beit2/norm_ema_quantizer.py, `NormEMAVectorQuantizer`.

    Deviation: the initial k-means uses the features of all ranks, runs on rank 0 and is broadcast; in the official code
    each rank has its own initial codes. Features are normalized and summed in float64, so that the codebook does not
    depend on how a batch is split over ranks. `cluster_size` starts with the counts of k-means and is never reset;
    evaluation changes nothing.

    Args:
        num_codes: K.
        code_dim: C.
        decay: share of a code that is kept at each step, in (0, 1).
        commitment: weight of the mean squared distance between features and their codes.
        kmeans_init: True initializes the codes by k-means on the first training batch; False by random directions.
        dead_after: number of steps without use after which a code counts as dead.
        reseed_dead_codes: replace dead codes with random features of the batch.
    """

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        *,
        decay: float = 0.99,
        commitment: float = 1.0,
        kmeans_init: bool = True,
        dead_after: int = 100,
        reseed_dead_codes: bool = False,
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.decay = decay
        self.commitment = commitment
        self.dead_after = dead_after
        self.reseed_dead_codes = reseed_dead_codes
        self.embedding = Codebook(num_codes, code_dim, kmeans_init=kmeans_init)
        self.register_buffer("cluster_size", paddle.zeros([num_codes]))
        self._is_initialized = False

    def forward(
        self, features: paddle.Tensor, rng: np.random.Generator | None = None
    ) -> dict[str, paddle.Tensor]:
        """`codes` `[B, N, C]` with the gradient of the features, `ids` int64 `[B, N]`, and `loss`, the commitment loss.

        Args:
            features: `[B, N, C]`; they need not be normalized.
            rng: random generator for the initial k-means and for reseeding, needed in training; rank 0's is used.

        Raises:
            ValueError: the codebook is not initialized, and the layer is in evaluation mode.
        """
        weight = self.embedding.weight
        with paddle.amp.auto_cast(enable=False):
            z = F.normalize(features.astype(weight.dtype), axis=-1)
            if not self._is_initialized:
                self._start(features, rng)
            ids = self.nearest(z)
            codes = F.embedding(ids, weight)
            loss = self.commitment * F.mse_loss(z, codes)
            if self.training:
                self._move(features, ids, rng)
            return {"codes": z + (codes - z).detach(), "ids": ids, "loss": loss}

    @paddle.no_grad()
    def nearest(self, z: paddle.Tensor) -> paddle.Tensor:
        """Number of the code with the smallest Euclidean distance: int64 `[...]` for vectors `[..., C]`."""
        return self.similarities(z).argmax(-1)

    def similarities(self, z: paddle.Tensor) -> paddle.Tensor:
        """`[..., K]` for vectors `[..., C]`: the nearer a code in Euclidean distance, the larger its value."""
        codes = self.embedding.weight
        # |z - e|^2 = |z|^2 - 2 (z e - |e|^2 / 2); |e| is included because loaded codes may not have length 1 exactly.
        return paddle.matmul(z, codes, transpose_y=True) - 0.5 * (codes * codes).sum(-1)

    @paddle.no_grad()
    def usage(self) -> dict[str, paddle.Tensor]:
        """Statistics of the recent steps: `usage` (share of codes that are not dead), `perplexity`, `dead_codes`."""
        alive = (~self.dead()).astype("float32")
        share = self.cluster_size / self.cluster_size.sum().clip(min=1e-12)
        entropy = -(share * share.clip(min=1e-12).log()).sum()
        return {"usage": alive.mean(), "perplexity": entropy.exp(), "dead_codes": (1.0 - alive).sum()}

    def dead(self) -> paddle.Tensor:
        """Bool `[K]`, True for dead codes: `cluster_size` is at most what remains of one use `dead_after` steps ago."""
        return self.cluster_size <= (1.0 - self.decay) * self.decay**self.dead_after

    def require_initialized(self) -> None:
        """Check that the codes have been trained or loaded.

        Raises:
            ValueError: they have not; the tokens would be meaningless.
        """
        if not self._is_initialized:
            self._is_initialized = bool(self.embedding.initted.all())
        if not self._is_initialized:
            raise ValueError(
                "the codebook was never initialized (quantize.embedding.initted is 0), its tokens would mean nothing: "
                "load a trained tokenizer (TOKENIZER.PRETRAINED), or train one (TASK: tokenizer)"
            )

    @paddle.no_grad()
    def _start(self, features: paddle.Tensor, rng: np.random.Generator | None) -> None:
        if not self.training or bool(self.embedding.initted.all()):
            self.require_initialized()
            return
        samples = self._directions(ranks.gather_samples(features))  # [M of all ranks, C]
        if ranks.rank() == 0:
            means, counts = kmeans(samples.astype(self.embedding.weight.dtype), self.num_codes, _require(rng))
        else:
            means, counts = paddle.zeros_like(self.embedding.weight), paddle.zeros_like(self.cluster_size)
        means, counts = ranks.broadcast(means), ranks.broadcast(counts)
        paddle.assign(means, output=self.embedding.weight)
        paddle.assign(counts, output=self.embedding.cluster_size)
        paddle.assign((1.0 - self.decay) * counts, output=self.cluster_size)
        paddle.assign(paddle.ones_like(self.embedding.initted), output=self.embedding.initted)
        self._is_initialized = True

    @paddle.no_grad()
    def _move(self, features: paddle.Tensor, ids: paddle.Tensor, rng: np.random.Generator | None) -> None:
        """Update the codebook with the features of all ranks."""
        codes = self.embedding.weight
        counts, sums = count_and_sum(self._directions(features), ids.flatten(), self.num_codes)
        both = ranks.sum_over_ranks(paddle.concat([sums, counts.unsqueeze(-1)], axis=-1))
        sums, counts = both[:, :-1], both[:, -1]
        means = F.normalize(sums / counts.clip(min=1.0).unsqueeze(-1), axis=-1).astype(codes.dtype)
        targets = paddle.where((counts > 0).unsqueeze(-1), means, codes)
        moved = F.normalize(self.decay * codes + (1.0 - self.decay) * targets, axis=-1)
        recent = self.decay * self.cluster_size + (1.0 - self.decay) * counts.astype(codes.dtype)
        paddle.assign(recent, output=self.cluster_size)
        paddle.assign(moved, output=codes)
        if self.reseed_dead_codes:
            self._reseed(features, _require(rng))

    def _reseed(self, features: paddle.Tensor, rng: np.random.Generator) -> None:
        """Replace dead codes with random features. They count as used once, so that they are not dead again at once."""
        samples = self._directions(ranks.gather_samples(features))
        rows = paddle.to_tensor(rng.integers(0, samples.shape[0], self.num_codes))
        candidates = F.embedding(ranks.broadcast(rows), samples)  # [K, C]
        candidates = candidates.astype(self.embedding.weight.dtype)
        dead = self.dead()
        paddle.assign(
            paddle.where(dead.unsqueeze(-1), candidates, self.embedding.weight), output=self.embedding.weight
        )
        once = paddle.full_like(self.cluster_size, 1.0 - self.decay)
        paddle.assign(paddle.where(dead, once, self.cluster_size), output=self.cluster_size)

    def _directions(self, features: paddle.Tensor) -> paddle.Tensor:
        """Features `[B, N, C]` as unit vectors `[M, C]`.

        In float64, because the last bit of a float32 result depends on the position of a vector in its batch.
        """
        return F.normalize(features.astype("float64").flatten(0, 1), axis=-1)


class Codebook(nn.Layer):
    """The tensors of the codebook under their published names: `weight`, `cluster_size`, `embed_avg`, `initted`.

    They are buffers, so no optimizer changes them. `embed_avg` is part of published files but is not used.
    """

    def __init__(self, num_codes: int, code_dim: int, *, kmeans_init: bool) -> None:
        super().__init__()
        shape = [num_codes, code_dim]
        weight = paddle.zeros(shape) if kmeans_init else F.normalize(paddle.randn(shape), axis=-1)
        self.register_buffer("weight", weight)
        self.register_buffer("cluster_size", paddle.zeros([num_codes]))
        self.register_buffer("embed_avg", weight.clone())
        self.register_buffer("initted", paddle.full([1], 0.0 if kmeans_init else 1.0))


@paddle.no_grad()
def kmeans(
    samples: paddle.Tensor, num_codes: int, rng: np.random.Generator, *, iterations: int = KMEANS_ITERATIONS
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Spherical k-means: unit means `[K, C]`, and the number of samples assigned to each in the last iteration, `[K]`.

    A mean without samples does not change.
    Source: unilm/beit2/norm_ema_quantizer.py, `kmeans` with `use_cosine_sim`.

    Args:
        samples: unit vectors `[M, C]`.
        num_codes: K.
        rng: draws the samples that are the initial means; all different if M >= K.
        iterations: number of assignments.
    """
    number = samples.shape[0]
    means = samples[paddle.to_tensor(rng.choice(number, num_codes, replace=number < num_codes))]
    for _ in range(iterations):
        parts = [
            paddle.matmul(samples[first : first + _CHUNK], means, transpose_y=True).argmax(-1)
            for first in range(0, number, _CHUNK)
        ]
        counts, sums = count_and_sum(samples, paddle.concat(parts), num_codes)
        new = F.normalize(sums / counts.clip(min=1.0).unsqueeze(-1), axis=-1).astype(means.dtype)
        means = paddle.where((counts > 0).unsqueeze(-1), new, means)
    return means, counts.astype(means.dtype)


def count_and_sum(
    vectors: paddle.Tensor, ids: paddle.Tensor, num_codes: int
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Number of vectors with each id, `[K]`, and their sum, `[K, C]`; both float64.

    Args:
        vectors: `[M, C]`.
        ids: int64 `[M]`, in 0 .. K - 1.
        num_codes: K.
    """
    zeros = paddle.zeros([num_codes, vectors.shape[-1]], dtype="float64")
    sums = paddle.index_add(zeros, ids, 0, vectors.astype("float64"))
    return paddle.bincount(ids, minlength=num_codes).astype("float64"), sums


def _require(rng: np.random.Generator | None) -> np.random.Generator:
    if rng is None:
        raise ValueError(
            "training draws codes at random: call the quantizer with rng=numpy.random.default_rng(seed)"
        )
    return rng
