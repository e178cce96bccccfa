"""Masked image modeling on single pictures: which visual tokens a model puts into the holes. Floor 4.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from PIL import Image
from yacs.config import CfgNode

from beit.checkpoint.load import load_pretrained
from beit.data.batch_transforms import normalize
from beit.data.masking import MaskGenerator, build_mask_generator
from beit.data.two_view import CentralTwoView, build_eval_views
from beit.models.dalle import DalleTokenizer
from beit.models.mim import BeitForMaskedImageModeling, MimLogits, build_mim
from beit.models.tokenizer import build_tokenizer, tokenizer_image_size
from beit.models.vqkd import VqKd
from beit.tasks.previews import gray_out
from beit.tasks.token_figures import code_colors

# B pictures; h, w patch grid; L = h * w

VISIBLE = -1
"""Entry of `pred_tokens` where the patch was shown."""


@dataclass(frozen=True)
class MaskedModel:
    """A pre-trained model with its masks, and its tokenizer where the config names one: call it with RGB pictures."""

    model: BeitForMaskedImageModeling
    tokenizer: VqKd | DalleTokenizer | None
    views: CentralTwoView
    masks: MaskGenerator
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif_orientation: bool = False

    def __call__(self, images: Sequence[Image.Image], seed: int = 0) -> list[dict[str, Any]]:
        """For each picture, arrays over the patch grid `[h, w]`, and pictures uint8 `[H, W, 3]`.

        `mask` says what was hidden, `pred_tokens` the token predicted there (-1 where the patch was shown), `view`
        what the model saw before masking. With a tokenizer also `tokens`, its ids, and `mask_accuracy`, the share of
        hidden patches whose token is right (0 to 1). Where the tokenizer has a decoder (DALL-E), `reconstruction`
        is its picture of the shown patches' tokens and the predicted ones.

        Args:
            seed: of the mask of the first picture; the next has seed + 1.
        """
        samples = [self.views(image) for image in images]
        grid = self.model.patch_embed.grid_size
        masks = np.stack([self.masks(np.random.default_rng(seed + k)) for k in range(len(samples))])
        pixels = np.stack([sample["image"] for sample in samples])
        with paddle.no_grad():
            logits = self.model(
                normalize(paddle.to_tensor(pixels), self.mean, self.std), paddle.to_tensor(masks)
            )
            logits = logits.main if isinstance(logits, MimLogits) else logits
            predicted = np.full(masks.shape, VISIBLE, np.int64)
            predicted[masks] = logits.argmax(-1).numpy()
            tokens = self._tokens(samples)
            rebuilt = self._rebuild(tokens, predicted, grid)
        results = []
        for k, mask in enumerate(masks):
            result: dict[str, Any] = {
                "mask": mask.reshape(grid),
                "pred_tokens": predicted[k].reshape(grid),
                "view": pixels[k].transpose(1, 2, 0),
            }
            if tokens is not None:
                result["tokens"] = tokens[k].reshape(grid)
                result["mask_accuracy"] = float((tokens[k] == predicted[k])[mask].mean())
            if rebuilt is not None:
                result["reconstruction"] = rebuilt[k]
            results.append(result)
        return results

    def _tokens(self, samples: Sequence[dict[str, np.ndarray]]) -> np.ndarray | None:
        if self.tokenizer is None:
            return None
        second = paddle.to_tensor(np.stack([sample["second"] for sample in samples]))
        return self.tokenizer.encode(second.astype("float32") / 255.0).numpy()

    def _rebuild(
        self, tokens: np.ndarray | None, predicted: np.ndarray, grid: tuple[int, int]
    ) -> np.ndarray | None:
        if tokens is None or not isinstance(self.tokenizer, DalleTokenizer) or self.tokenizer.decoder is None:
            return None
        mixed = np.where(predicted == VISIBLE, tokens, predicted)
        pictures = self.tokenizer.decode(paddle.to_tensor(mixed), grid).numpy()
        return np.rint(pictures.clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def draw_masked_prediction(result: Mapping[str, Any]) -> np.ndarray:
    """What the model saw, beside it with the hidden patches gray, the colors of its tokens in the holes, and the
    reconstruction where there is one: uint8 `[H, columns * W, 3]`. A token has the same color in every picture."""
    view, mask = result["view"], result["mask"]
    size = (view.shape[1], view.shape[0])

    def spread(grid: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.NEAREST))

    hidden = spread(mask.astype(np.uint8))[..., None].astype(bool)
    columns = [view, gray_out(view[None], mask[None])[0]]
    columns.append(np.where(hidden, spread(code_colors(result["pred_tokens"])), view))
    if "reconstruction" in result:
        columns.append(
            np.asarray(Image.fromarray(result["reconstruction"]).resize(size, Image.Resampling.BICUBIC))
        )
    return np.concatenate(columns, axis=1)


def load_masked_model(config: CfgNode) -> MaskedModel:
    """The pre-training model of a config with the weights of MODEL.PRETRAINED; the tokenizer if its weights are named.

    Raises:
        ValueError: there are no weights, or they do not fit.
    """
    if not config.MODEL.PRETRAINED:
        raise ValueError("MODEL.PRETRAINED is not set; name the weights to predict with")
    model = build_mim(config)
    load_pretrained(model, config.MODEL.PRETRAINED)
    model.eval()
    tokenizer = build_tokenizer(config) if config.TOKENIZER.PRETRAINED else None
    return MaskedModel(
        model=model,
        tokenizer=tokenizer,
        views=build_eval_views(config, tokenizer_image_size(config) if tokenizer is not None else None),
        masks=build_mask_generator(config),
        mean=tuple(config.DATA.IMAGENET_MEAN),
        std=tuple(config.DATA.IMAGENET_STD),
        exif_orientation=config.DATA.EXIF_ORIENTATION,
    )
