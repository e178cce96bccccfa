"""Masked image modeling: BEiT and BEiT v2 pre-training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.cpu import split_batch
from beit.data.batch_transforms import normalize
from beit.data.dataset import bad_images_file
from beit.data.pretraining import PretrainDataset, build_pretrain_dataset
from beit.models.dalle import DalleTokenizer
from beit.models.mim import MimLogits, build_mim, hidden_places
from beit.models.tokenizer import build_tokenizer, tokenizer_image_size
from beit.optim.groups import is_no_decay, parameter_groups
from beit.tasks.pictures import draw_masked_images
from beit.tasks.task import Batch, Task
from beit.tasks.token_cache import TokenCache

# B batch, L patches, M masked patches of the batch, K vocabulary

_PICTURE_IMAGES = 8


class Pretrain(Task):
    """Predict the visual tokens of hidden patches; BEiT v2 adds the loss of the patch aggregation.

    The tokenizer is frozen and in no checkpoint. `mlm_acc` is the share of masked patches whose token is right, from 0
    to 1 as in the official logs: with DALL-E's tokens 0.05 is a normal end.
    The loss is the mean over the masked patches of a rank's micro-batch, which in v1 are not the same number each time.
    Source: unilm/beit/run_beit_pretraining.py and engine_for_pretraining.py, unilm/beit2/engine_for_pretraining.py.

    Raises:
        ValueError: the tokenizer cannot be had (`build_tokenizer`).
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        self.config = config
        if not config.TOKENIZER.PRETRAINED:
            warnings.warn(
                "TOKENIZER.PRETRAINED names no file: the tokens of a tokenizer with random weights mean nothing",
                stacklevel=2,
            )
        self.model = build_mim(config)
        # In a tuple, so that it is no sub-layer: not trained, averaged or synchronized, and always in evaluation mode.
        self._frozen = (build_tokenizer(config),)
        self._picture: np.ndarray | None = None

    def dataset(self, split: Literal["train", "val"]) -> PretrainDataset | None:
        second_size = tokenizer_image_size(self.config)
        if split == "val":
            return build_pretrain_dataset(self.config, "val", second_size)
        bad_images = bad_images_file(self.config, "train")
        cached = self.config.DATA.TOKEN_CACHE
        dataset = build_pretrain_dataset(
            self.config, "train", second_size, bad_images=bad_images, fixed_views=bool(cached)
        )
        if not cached:
            return dataset
        assert dataset is not None
        file = TokenCache(Path(cached), dataset, self._frozen[0]).ready(self.config)
        return build_pretrain_dataset(
            self.config, "train", second_size, bad_images=bad_images, fixed_views=True, tokens=file
        )

    def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """With `hidden`, the places int64 `[M]` of the masked patches among the `B L` of the batch."""
        return {**batch, "hidden": np.flatnonzero(batch["mask"])}

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        targets, branches = self._targets(batch, self._tokens(batch)), self._logits(batch)
        losses = {name: _token_losses(logits, targets).mean() for name, logits in branches.items()}
        scalars = {"loss": paddle.add_n(list(losses.values()))}
        if len(losses) > 1:
            scalars |= {f"loss_{name}": loss.detach() for name, loss in losses.items()}
        for name, logits in branches.items():
            scalars[_accuracy_name(name)] = _correct(logits, targets).mean()
        return scalars

    def param_groups(self) -> list[dict[str, Any]]:
        train = self.config.TRAIN
        return parameter_groups(
            self.model.named_parameters(),
            self.model.layer_id,
            num_layers=self.model.depth,
            layer_decay=train.LAYER_DECAY,
            weight_decay=train.WEIGHT_DECAY,
            no_decay=lambda name, parameter: is_no_decay(
                name, parameter, decay_position_tables=train.DECAY_REL_POS_BIAS
            ),
        )

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self._tokens(batch)
        targets, branches = self._targets(batch, tokens), self._logits(batch)
        if self._picture is None:
            self._picture = self._draw(batch, tokens, branches["main"])
        sums = {
            "count": paddle.to_tensor(len(tokens)),
            "tokens": paddle.to_tensor(len(targets)),
        }
        for name, logits in branches.items():
            sums[f"loss_{name}"] = _token_losses(logits, targets).astype("float64").sum()
            sums[_accuracy_name(name)] = _correct(logits, targets).astype("float64").sum()
        return sums

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        means = {
            name: value / sums["tokens"] for name, value in sums.items() if name not in ("count", "tokens")
        }
        loss = sum(value for name, value in means.items() if name.startswith("loss_"))
        if len([name for name in means if name.startswith("loss_")]) == 1:
            del means["loss_main"]
        return {"loss": loss, **means, "count": sums["count"]}

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        return metrics["mlm_acc"]

    @paddle.no_grad()
    def preview(self, batch: Batch) -> np.ndarray:
        first = {name: value[:_PICTURE_IMAGES] for name, value in batch.items()}
        return self._draw(first, self._tokens(first), None)

    def write_report(self, folder: Path) -> dict[str, np.ndarray]:
        picture, self._picture = self._picture, None
        return {} if picture is None else {"original, masked, tokens, prediction": picture}

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        images = normalize(batch["image"], self.config.DATA.IMAGENET_MEAN, self.config.DATA.IMAGENET_STD)
        logits = self.model(images, batch["mask"], batch.get("hidden"))
        return logits._asdict() if isinstance(logits, MimLogits) else {"main": logits}

    @staticmethod
    def _targets(batch: Batch, tokens: Tensor) -> Tensor:
        """The tokens `[M]` of the masked patches, of those `[B, L]` of all."""
        return tokens.flatten().gather(hidden_places(batch["mask"], batch.get("hidden")))

    @paddle.no_grad()
    def _tokens(self, batch: Batch) -> Tensor:
        """Visual tokens int64 `[B, L]`, stored or of the second view."""
        if "tokens" in batch:
            return batch["tokens"]
        return split_batch(self._frozen[0].encode, batch["second"].astype("float32") / 255.0)

    def _draw(self, batch: Batch, tokens: Tensor, logits: Tensor | None) -> np.ndarray:
        """Original, masked, and where the tokenizer has a decoder what it makes of the tokens and of the prediction.

        In the prediction visible patches keep their own token.
        """
        images, mask = batch["image"][:_PICTURE_IMAGES], batch["mask"][:_PICTURE_IMAGES]
        tokens = tokens[:_PICTURE_IMAGES]
        decoded = []
        tokenizer, grid = self._frozen[0], self.model.patch_embed.grid_size
        if isinstance(tokenizer, DalleTokenizer) and tokenizer.decoder is not None:
            decoded.append(tokenizer.decode(tokens, grid).numpy())
            if logits is not None:
                predicted = tokens.numpy().copy()
                predicted[mask.numpy()] = logits[: int(mask.sum())].argmax(-1).numpy()
                decoded.append(tokenizer.decode(paddle.to_tensor(predicted), grid).numpy())
        return draw_masked_images(images.numpy(), mask.numpy(), grid, decoded)


def _accuracy_name(branch: str) -> str:
    return "mlm_acc" if branch == "main" else f"mlm_acc_{branch}"


def _token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy `[M]` of each masked patch, in float32 also under autocast; NaN where a logit is not finite."""
    with paddle.amp.auto_cast(enable=False):
        logits = logits.astype("float32")
        losses = F.cross_entropy(logits, targets, reduction="none")
        # Paddle's cross entropy of NaN is finite, and a broken branch would go unnamed. (Its `log_softmax` would tell,
        # but takes 300 times as long on a CPU.)
        return losses + 0.0 * logits.detach().sum(-1)


@paddle.no_grad()
def _correct(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(-1) == targets).astype("float32")
