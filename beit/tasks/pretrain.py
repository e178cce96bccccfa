"""Masked image modeling: BEiT and BEiT v2 pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.cpu import split_batch
from beit.data.batch_transforms import unit_range
from beit.data.dataset import bad_images_file
from beit.data.pretraining import PretrainDataset, build_pretrain_dataset
from beit.models.dalle import DalleTokenizer
from beit.models.mim import MimLogits, build_mim, find_masked_indices
from beit.models.tokenizer import build_tokenizer, tokenizer_image_size, trained_decoder
from beit.models.vqkd import VqKd
from beit.tasks.previews import draw_masked_images
from beit.tasks.task import Batch, Sums, Task
from beit.tasks.token_cache import TokenCache
from beit.tasks.token_figures import TokenDecoder

# B batch, L patches, M masked patches of the batch, K vocabulary, h, w patch grid

PREVIEW_IMAGES = 8
"""Images of a batch that `preview` and `draw_predictions` draw."""


class Pretrain(Task):
    """Predict the visual tokens of masked patches; BEiT v2 adds the loss of the patch aggregation.

    The tokenizer is frozen and in no checkpoint. `mlm_acc` is the share of masked patches whose token is predicted
    correctly, from 0 to 1 as in the official logs; 0.05 is usual at the end of a training on DALL-E's tokens.
    The loss is the mean over the masked patches of a rank's micro-batch, whose number varies in BEiT v1.
    Source: unilm/beit/run_beit_pretraining.py and engine_for_pretraining.py, unilm/beit2/engine_for_pretraining.py.

    Raises:
        ValueError: the tokenizer has no trained weights, or the model or the tokenizer cannot be built (`build_mim`,
            `build_tokenizer`).
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        self.config = config
        if not config.TOKENIZER.PRETRAINED and not config.TOKENIZER.ALLOW_RANDOM:
            raise ValueError(
                "TOKENIZER.PRETRAINED names no file, and the tokens of a tokenizer with random weights mean nothing: set it "
                "to trained weights (docs/pretraining.md names them), or for a trial of speed or memory say "
                "-opts TOKENIZER.ALLOW_RANDOM True"
            )
        self.model = build_mim(config)
        # In a tuple, so that Paddle does not register it as a sublayer: not trained, averaged or synchronized, and always
        # in evaluation mode.
        self._frozen = (build_tokenizer(config),)

    @property
    def tokenizer(self) -> VqKd | DalleTokenizer:
        """The frozen tokenizer."""
        return self._frozen[0]

    def dataset(self, split: Literal["train", "val"]) -> PretrainDataset | None:
        """Images with masks, and second views or (with `DATA.TOKEN_CACHE`) tokens; None for "val" without images."""
        second_size = tokenizer_image_size(self.config)
        if split == "val":
            return build_pretrain_dataset(self.config, "val", second_size)
        bad_images, cached = bad_images_file(self.config, split), self.config.DATA.TOKEN_CACHE
        dataset = build_pretrain_dataset(
            self.config, "train", second_size, bad_images=bad_images, fixed_views=bool(cached)
        )
        if not cached:
            return dataset
        assert dataset is not None
        file = TokenCache(Path(cached), dataset, self.tokenizer, self.config).ensure()
        return build_pretrain_dataset(
            self.config, "train", second_size, bad_images=bad_images, fixed_views=True, tokens=file
        )

    def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds `masked_indices`: indices int64 `[M]` of the masked patches among the `B L` patches of the batch."""
        return {**batch, "masked_indices": np.flatnonzero(batch["mask"])}

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """`loss` and `mlm_acc`; with BEiT v2 also the loss of each branch and `mlm_acc_cls_pt`."""
        targets, branches = self._targets(batch, self._tokens(batch)), self._logits(batch)
        losses = {name: _token_losses(logits, targets).mean() for name, logits in branches.items()}
        scalars = {"loss": paddle.add_n(list(losses.values()))}
        if len(losses) > 1:
            scalars |= {f"loss_{name}": loss.detach() for name, loss in losses.items()}
        for name, logits in branches.items():
            scalars[_accuracy_name(name)] = _is_correct(logits, targets).mean()
        return scalars

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """`count` (images), `tokens` (masked patches), and the sums of loss and accuracy of each branch."""
        tokens = self._tokens(batch)
        targets, branches = self._targets(batch, tokens), self._logits(batch)
        sums = {
            "count": paddle.to_tensor(len(tokens)),
            "tokens": paddle.to_tensor(len(targets)),
        }
        for name, logits in branches.items():
            sums[f"loss_{name}"] = _token_losses(logits, targets).astype("float64").sum()
            sums[_accuracy_name(name)] = _is_correct(logits, targets).astype("float64").sum()
        return sums

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Means over the masked patches, and `count`; `loss` is the sum of the branches."""
        means = {
            name: value / sums["tokens"] for name, value in sums.items() if name not in ("count", "tokens")
        }
        losses = [name for name in means if name.startswith("loss_")]
        loss = sum(means[name] for name in losses)
        if len(losses) == 1:
            del means["loss_main"]
        return {"loss": loss, **means, "count": sums["count"]}

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The accuracy `mlm_acc` of the main branch."""
        return metrics["mlm_acc"]

    @paddle.no_grad()
    def preview(self, batch: Batch) -> np.ndarray:
        """Per image: the original, the masked image, and the decoded tokens if the tokenizer has a decoder."""
        batch = _first_images(batch)
        return self._draw(batch, [self._tokens(batch)])

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """The image of `draw_predictions` for the log; no files are written."""
        return {"original, masked, tokens, prediction": self.draw_predictions(batch)}

    @paddle.no_grad()
    def draw_predictions(self, batch: Batch, decoder: TokenDecoder | None = None) -> np.ndarray:
        """`preview`, with the decoded prediction as a further column; visible patches keep their own token.

        Args:
            batch: images with masks, and their tokens or second views; the first eight images are drawn.
            decoder: of tokens; None for that of the tokenizer, if it has one.
        """
        batch = _first_images(batch)
        tokens, predicted = self._tokens(batch), self._logits(batch)["main"].argmax(-1)  # [B, L], [M]
        completed = tokens.numpy().copy()
        completed[batch["mask"].numpy()] = predicted.numpy()
        return self._draw(batch, [tokens, paddle.to_tensor(completed)], decoder)

    def _draw(self, batch: Batch, tokens: list[Tensor], decoder: TokenDecoder | None = None) -> np.ndarray:
        grid = self.model.patch_embed.grid_size
        decoder = decoder or trained_decoder(self.tokenizer)
        decoded = [] if decoder is None else [decoder.decode(ids, grid).numpy() for ids in tokens]
        images, masks = batch["image"].numpy().transpose(0, 2, 3, 1), batch["mask"].numpy()
        return draw_masked_images(images, masks.reshape(-1, *grid), decoded)

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(self.normalize(batch["image"]), batch["mask"], batch.get("masked_indices"))
        return logits._asdict() if isinstance(logits, MimLogits) else {"main": logits}

    @staticmethod
    def _targets(batch: Batch, tokens: Tensor) -> Tensor:
        """The tokens of the masked patches, `[M]`, selected from the tokens of all patches, `[B, L]`."""
        indices = batch["masked_indices"] if "masked_indices" in batch else find_masked_indices(batch["mask"])
        return tokens.flatten().gather(indices)

    @paddle.no_grad()
    def _tokens(self, batch: Batch) -> Tensor:
        """Visual tokens int64 `[B, L]`: stored ones, or those of the second view."""
        if "tokens" in batch:
            return batch["tokens"]
        return split_batch(self.tokenizer.encode, unit_range(batch["second"]))


def _first_images(batch: Batch) -> Batch:
    """The images of a batch that are drawn."""
    return {name: value[:PREVIEW_IMAGES] for name, value in batch.items() if name != "masked_indices"}


def _accuracy_name(branch: str) -> str:
    return "mlm_acc" if branch == "main" else f"mlm_acc_{branch}"


def _token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy `[M]` of each masked patch, in float32 also under autocast; NaN where a logit is not finite."""
    with paddle.amp.auto_cast(enable=False):
        logits = logits.astype("float32")
        losses = F.cross_entropy(logits, targets, reduction="none")
        # Paddle's cross entropy of NaN logits is finite, so a broken branch would go unnoticed. (Its `log_softmax` is
        # NaN then, but 300 times slower on a CPU.)
        return losses + 0.0 * logits.detach().sum(-1)


@paddle.no_grad()
def _is_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """1.0 for each masked patch whose token is predicted correctly, else 0.0; `[M]`."""
    return (logits.argmax(-1) == targets).astype("float32")
