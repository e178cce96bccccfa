"""A pre-trained model on single images: it masks patches and predicts their visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import paddle
from PIL import Image
from yacs.config import CfgNode

from beit.data.batch_transforms import unit_range
from beit.data.masking import MaskGenerator, build_mask_generator
from beit.data.two_view import CentralTwoView, build_eval_views
from beit.models.dalle import DalleTokenizer
from beit.models.mim import BeitForMaskedImageModeling, MimLogits
from beit.models.tokenizer import build_tokenizer, tokenizer_image_size, trained_decoder
from beit.models.vqkd import VqKd
from beit.predict.predictor import Predictor
from beit.preprocessing import Preprocessing, preprocessing_of
from beit.tasks.previews import gray_out, to_uint8
from beit.tasks.token_figures import code_colors

# B images; h, w patch grid; L = h * w patches

VISIBLE = -1
"""Entry of `pred_tokens` for patches that are not masked."""


@dataclass(frozen=True, repr=False)
class MaskedModel(Predictor):
    """A pre-trained model with its mask generator, and its tokenizer where the config names one."""

    task: ClassVar[str] = "pretrain"
    class_names = None
    palette = ()
    engine, precision = "paddle", "float32"

    model: BeitForMaskedImageModeling
    preprocessing: Preprocessing
    tokenizer: VqKd | DalleTokenizer | None
    views: CentralTwoView
    masks: MaskGenerator

    def __call__(
        self, images: Sequence[Image.Image], topk: int = 5, *, seed: int = 0
    ) -> list[dict[str, Any]]:
        """The tokens predicted for the masked patches of RGB images.

        Each result has arrays over the patch grid `[h, w]` and images uint8 `[H, W, 3]`: `mask` (True for masked
        patches), `pred_tokens` (the predicted token; -1 for patches that are not masked), and `view`, the model's
        input before masking. With a tokenizer also `tokens`, its ids, and `mask_accuracy`, the share of masked patches
        whose token is predicted correctly (0 to 1). Where the tokenizer has a decoder (DALL-E), `reconstruction` is
        its image of the predicted tokens, and of the tokenizer's where patches are not masked.

        Args:
            images: RGB.
            topk: not used; these models have no classes.
            seed: of the mask of the first image; the next image has seed + 1.
        """
        samples = [self.views(image) for image in images]
        grid = self.model.patch_embed.grid_size
        masks = np.stack([self.masks(np.random.default_rng(seed + k)) for k in range(len(samples))])
        pixels = np.stack([sample["image"] for sample in samples])
        with paddle.no_grad():
            logits = self.model(self.normalize(pixels), paddle.to_tensor(masks))
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

    def summary(self, result: dict[str, Any], topk: int = 5) -> dict[str, Any]:
        """`pred_tokens` as lists, and `mask_accuracy` where there is a tokenizer."""
        entry = {"pred_tokens": result["pred_tokens"].tolist()}
        return entry | {name: result[name] for name in ("mask_accuracy",) if name in result}

    def draw(self, image: Image.Image, result: dict[str, Any]) -> dict[str, Image.Image]:
        """`masked`: the columns of `draw_masked_prediction`."""
        return {"masked": Image.fromarray(draw_masked_prediction(result))}

    def _tokens(self, samples: Sequence[dict[str, np.ndarray]]) -> np.ndarray | None:
        if self.tokenizer is None:
            return None
        second = paddle.to_tensor(np.stack([sample["second"] for sample in samples]))
        return self.tokenizer.encode(unit_range(second)).numpy()

    def _rebuild(
        self, tokens: np.ndarray | None, predicted: np.ndarray, grid: tuple[int, int]
    ) -> np.ndarray | None:
        decoder = None if self.tokenizer is None else trained_decoder(self.tokenizer)
        if tokens is None or decoder is None:
            return None
        mixed = np.where(predicted == VISIBLE, tokens, predicted)
        return to_uint8(decoder.decode(paddle.to_tensor(mixed), grid).numpy())


def draw_masked_prediction(result: Mapping[str, Any]) -> np.ndarray:
    """A result of `MaskedModel` as one image with several columns, uint8 `[H, columns * W, 3]`.

    The columns are the model's input, the same with masked patches in gray, the same with masked patches in the colors
    of their predicted tokens, and the reconstruction where there is one. A token always has the same color.
    """
    view, mask = result["view"], result["mask"]
    size = (view.shape[1], view.shape[0])

    def enlarge(grid: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.NEAREST))

    masked = enlarge(mask.astype(np.uint8))[..., None].astype(bool)
    columns = [view, gray_out(view[None], mask[None])[0]]
    columns.append(np.where(masked, enlarge(code_colors(result["pred_tokens"])), view))
    if "reconstruction" in result:
        columns.append(
            np.asarray(Image.fromarray(result["reconstruction"]).resize(size, Image.Resampling.BICUBIC))
        )
    return np.concatenate(columns, axis=1)


def masked_model(model: BeitForMaskedImageModeling, config: CfgNode) -> MaskedModel:
    """A pre-training model with the masks of its config, and with the tokenizer if the config names its weights."""
    tokenizer = build_tokenizer(config) if config.TOKENIZER.PRETRAINED else None
    return MaskedModel(
        model=model,
        preprocessing=preprocessing_of(config),
        tokenizer=tokenizer,
        views=build_eval_views(config, tokenizer_image_size(config) if tokenizer is not None else None),
        masks=build_mask_generator(config),
    )
