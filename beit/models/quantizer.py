"""The codebook of VQ-KD: unit vectors that follow the features assigned to them."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.parallel import ranks

# B batch, N patches, M = B * N feature vectors, K codes, C channels of a code

KMEANS_ITERATIONS = 10
"""Of the start, as unilm/beit2/norm_ema_quantizer.py."""
_CHUNK = 1 << 14  # feature vectors compared with all codes at once: 512 MiB of similarities at K 8192


class NormEmaQuantizer(nn.Layer):
    """Nearest code of each L2-normalized feature vector, and codes that move towards the mean of their features.

    There is no codebook loss: the third term of the paper's objective is the moving average (users ask for it). The
    gradient passes straight through the quantizer. In training every call is one step of the codebook.
    Source: arXiv 2208.06366, section 2.2; unilm/beit2/norm_ema_quantizer.py, `NormEMAVectorQuantizer`.

    Deviation: the k-means start sees the features of all ranks, runs on rank 0 and is broadcast; officially each
    rank starts with codes of its own. Features are normalized and summed in float64, so that the codebook does not
    depend on how a batch is split over ranks. `cluster_size` begins with the counts of k-means and is never reset;
    evaluation changes nothing.

    Args:
        num_codes: K.
        code_dim: C.
        decay: share of a code that stays per step.
        commitment: weight of the mean squared distance between features and their codes.
        kmeans_init: start at the k-means of the first training batch; else at random directions.
        dead_after: steps without use after which a code counts as dead.
        reseed_dead_codes: put dead codes onto random features of the batch.
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
        """`codes` `[B, N, C]` with the gradient of the features, `ids` int64 `[B, N]`, `loss` (commitment).

        Args:
            features: `[B, N, C]`, of any length.
            rng: for the k-means start and re-seeding, in training; the one of rank 0 counts.
        Raises:
            ValueError: the codebook is not initialized, and this is no training.
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
        """Number of the code at the least Euclidean distance, int64, of each vector of `[…, C]`."""
        codes = self.embedding.weight
        # |z - e|^2 = |z|^2 - 2 (z e - |e|^2 / 2): the codes of a file need not be of length 1 exactly.
        similarity = paddle.matmul(z.detach(), codes, transpose_y=True) - 0.5 * (codes * codes).sum(-1)
        return similarity.argmax(-1)

    @paddle.no_grad()
    def usage(self) -> dict[str, paddle.Tensor]:
        """Scalars of the recent steps: `usage` (share of codes alive), `perplexity`, `dead_codes`."""
        alive = (~self.dead()).astype("float32")
        share = self.cluster_size / self.cluster_size.sum().clip(min=1e-12)
        entropy = -(share * share.clip(min=1e-12).log()).sum()
        return {"usage": alive.mean(), "perplexity": entropy.exp(), "dead_codes": (1.0 - alive).sum()}

    def dead(self) -> paddle.Tensor:
        """Which codes count as dead, bool `[K]`: less in `cluster_size` than one use `dead_after` steps ago leaves."""
        return self.cluster_size <= (1.0 - self.decay) * self.decay**self.dead_after

    def require_initialized(self) -> None:
        """Refuse codes that mean nothing.

        Raises:
            ValueError: no training and no file has filled the codebook.
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
            means, counts = kmeans(samples.astype(self.embedding.weight.dtype), self.num_codes, _given(rng))
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
        """One step of the codebook towards the features of all ranks."""
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
            self._reseed(features, _given(rng))

    def _reseed(self, features: paddle.Tensor, rng: np.random.Generator) -> None:
        """Dead codes take the place of random features and count as used once, so that they get time to live."""
        samples = self._directions(ranks.gather_samples(features))
        places = paddle.to_tensor(rng.integers(0, samples.shape[0], self.num_codes))
        candidates = F.embedding(ranks.broadcast(places), samples)  # [K, C]
        candidates = candidates.astype(self.embedding.weight.dtype)
        dead = self.dead()
        paddle.assign(
            paddle.where(dead.unsqueeze(-1), candidates, self.embedding.weight), output=self.embedding.weight
        )
        once = paddle.full_like(self.cluster_size, 1.0 - self.decay)
        paddle.assign(paddle.where(dead, once, self.cluster_size), output=self.cluster_size)

    def _directions(self, features: paddle.Tensor) -> paddle.Tensor:
        """Unit vectors `[M, C]` in float64: in float32 the last bit depends on the place of a vector in its batch."""
        return F.normalize(features.astype("float64").flatten(0, 1), axis=-1)


class Codebook(nn.Layer):
    """The tensors of the codebook under their published names: `weight`, `cluster_size`, `embed_avg`, `initted`.

    They are buffers: no optimizer touches them. `embed_avg` is part of published files and never read.
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
    """Spherical k-means: unit means `[K, C]` and the number of samples of each in the last assignment `[K]`.

    A mean without samples stays where it is.
    Source: unilm/beit2/norm_ema_quantizer.py, `kmeans` with `use_cosine_sim`.

    Args:
        samples: unit vectors `[M, C]`.
        rng: draws the samples to start at: all different when M >= K.
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
    """How many of `vectors` `[M, C]` each id has, `[K]`, and their sums, `[K, C]`; float64."""
    zeros = paddle.zeros([num_codes, vectors.shape[-1]], dtype="float64")
    sums = paddle.index_add(zeros, ids, 0, vectors.astype("float64"))
    return paddle.bincount(ids, minlength=num_codes).astype("float64"), sums


def _given(rng: np.random.Generator | None) -> np.random.Generator:
    if rng is None:
        raise ValueError(
            "training draws codes at random: call the quantizer with rng=numpy.random.default_rng(seed)"
        )
    return rng
