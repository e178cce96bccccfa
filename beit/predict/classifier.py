"""A trained classifier with what belongs to it: pictures in, names and scores out. Floor 3.5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle
from PIL import Image

from beit.beit import Beit, BeitOutput
from beit.checkpoint.class_names import ClassNames
from beit.cpu import split_batch
from beit.data.batch_transforms import normalize
from beit.data.imagenet_classes import class_names as names_of_list
from beit.data.imagenet_classes import from_synsets
from beit.data.transforms import FILTERS, EvalTransform, channels_first
from beit.preprocessing import Preprocessing

# B pictures; H, W input size; D width; K classes


@dataclass(frozen=True)
class Classifier:
    """Call it with RGB pictures.

    `preprocessing` is what the weights were evaluated with; `class_names` of the K classes, None where nobody knows.
    """

    model: Beit
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None

    def __call__(self, images: Sequence[Image.Image], topk: int = 5) -> list[dict[str, Any]]:
        """For each picture `pred_label`, `pred_score`, `pred_class`, `pred_scores` float32 `[K]` (they sum to 1), as
        mmpretrain names them, and `topk`: the best classes, each with `class`, `label` and `score`.

        Raises:
            ValueError: the model has no head, or `topk` is not positive.
        """
        return self.classify(self.tensor(images), topk)

    def classify(self, inputs: paddle.Tensor, topk: int = 5) -> list[dict[str, Any]]:
        """The same for prepared pictures `[B, 3, H, W]` (`tensor`)."""
        if not self.model.num_classes:
            raise ValueError("the model has no head, it gives features: use beit.extract_feat")
        if topk < 1:
            raise ValueError(f"topk={topk}; expected 1 or more")
        with _evaluating(self.model):
            scores = paddle.nn.functional.softmax(
                split_batch(self.model, inputs).astype("float32"), axis=-1
            ).numpy()
        return [self._result(row, topk) for row in scores]

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pooled features, float32 `[B, D]`."""
        with _evaluating(self.model):
            return split_batch(self.model.extract_feat, self.tensor(images)).numpy()

    def outputs(
        self,
        images: Sequence[Image.Image],
        *,
        hidden_states: Sequence[int] = (),
        attentions: Sequence[int] = (),
    ) -> BeitOutput:
        """Tokens, pooled features, and hidden states and attention weights of chosen blocks: `Beit.forward_outputs`."""
        with _evaluating(self.model):
            return self.model.forward_outputs(
                self.tensor(images), hidden_states=hidden_states, attentions=attentions
            )

    def view(self, image: Image.Image) -> Image.Image:
        """The part of an RGB picture that the model sees, at its input size."""
        height, width = self.model.patch_embed.image_size
        wants = self.preprocessing
        if wants.squash:
            return image.resize((width, height), FILTERS[wants.interpolation])
        assert wants.crop_pct is not None  # `classifier` refuses what is incomplete
        transform = EvalTransform((height, width), wants.crop_pct, FILTERS[wants.interpolation])
        return Image.fromarray(transform(image)["image"].transpose(1, 2, 0))

    def tensor(self, images: Sequence[Image.Image]) -> paddle.Tensor:
        """Pictures as the model takes them, float32 `[B, 3, H, W]`."""
        return self.tensor_of_views([channels_first(self.view(image)) for image in images])

    def tensor_of_views(self, views: Sequence[np.ndarray]) -> paddle.Tensor:
        """The same for views, uint8 `[3, H, W]`."""
        wants = self.preprocessing
        assert wants.mean is not None and wants.std is not None  # `classifier` refuses what is incomplete
        return normalize(paddle.to_tensor(np.stack(views)), wants.mean, wants.std)

    def name(self, label: int) -> str:
        """What to call a class."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def _result(self, scores: np.ndarray, topk: int) -> dict[str, Any]:
        best = np.argsort(-scores, kind="stable")[:topk].tolist()
        rows = [{"class": self.name(k), "label": k, "score": float(scores[k])} for k in best]
        return {
            "pred_label": rows[0]["label"],
            "pred_score": rows[0]["score"],
            "pred_class": rows[0]["class"],
            "pred_scores": scores,
            "topk": rows,
        }


def classifier(
    model: Beit,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: ClassNames | None = None,
    origin: str = "the model",
) -> Classifier:
    """A model made ready to predict with the preprocessing and class names it carries, or with those given.

    Args:
        preprocessing: fields that are not None replace the model's.
        class_names: of the K classes, or `imagenet-1k`, `imagenet-21k`. Names that are all WordNet identifiers, as
            ImageNet's folders are called, are spelled out.
        origin: what to call the model in messages.

    Raises:
        ValueError: neither says how pictures are prepared, or there is another number of names than classes.
    """
    wants = model.preprocessing or Preprocessing()
    if preprocessing is not None:
        given = {name: value for name, value in vars(preprocessing).items() if value not in (None, "")}
        wants = replace(wants, **given)
    if wants.unknown:
        reason = f" ({wants.source})" if wants.source else ""
        raise ValueError(
            f"it is not known how pictures are prepared for {origin}: {', '.join(wants.unknown)} missing{reason}. Pass "
            "preprocessing=beit.Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=0.9) with the values "
            "it was trained with (on the command line --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --crop-pct 0.9), or the "
            "config of its run"
        )
    names = class_names if class_names is not None else model.class_names
    if isinstance(names, str):
        names = names_of_list(names)
    elif names is not None:
        names = from_synsets(names)
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"{len(names)} class names for a model with {model.num_classes} classes")
    return Classifier(model, wants, names)


@contextmanager
def _evaluating(model: paddle.nn.Layer) -> Iterator[None]:
    """The model in evaluation mode, without gradients; afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        if was_training:
            model.train()
