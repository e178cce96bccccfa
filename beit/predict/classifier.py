"""A trained classifier or encoder: images to class names, scores, features and attention maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import paddle
from PIL import Image

from beit.beit import Beit, BeitOutput
from beit.data.model_input import prepare_image
from beit.deploy.compiled import Function, compiled
from beit.deploy.network import probabilities
from beit.imagenet_classes import class_names as names_of_list
from beit.imagenet_classes import from_synsets
from beit.metadata.class_names import ClassNames
from beit.models.views import view_logits
from beit.predict.attention_maps import attention_map, grad_cam, overlay, rollout
from beit.predict.predictor import Predictor, class_result, finite, fit_longer_side, new_threshold
from beit.preprocessing import Preprocessing

# B images; H, W input size; D width; K classes; H heads, h, w patch grid, N = h * w + 1 tokens of attention weights

# Attention weights of all blocks at once; a large model of 512 pixels has 1.6 GB of them.
_ROLLOUT_BYTES = 256 * 2**20


@dataclass(frozen=True, repr=False)
class Classifier(Predictor):
    """A classifier, or an encoder without a head, which only has features.

    Classes are predicted from the mean probabilities of `crops` (1 or 5: the corners and the center) and, with `flip`,
    their mirror images (`with_views`). Features and attention maps are those of the center.
    """

    task: ClassVar[str] = "classify"
    palette = ()

    model: Beit
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    engine: str = "paddle"
    precision: str = "float32"
    crops: int = 1
    flip: bool = False
    threshold: float | None = None

    def __call__(self, images: Sequence[Image.Image], topk: int = 5) -> list[dict[str, Any]]:
        """The predicted classes of RGB images.

        Each result has `pred_label`, `pred_score`, `pred_class` and `pred_scores` (float32 `[K]`, they sum to 1), as
        mmpretrain names them, and `topk`: the best classes, each with `class`, `label` and `score`. With a `threshold`
        (TASK: multilabel) the scores do not sum to 1, and `labels` has the classes with at least this score, as `topk`.

        Raises:
            ValueError: the model has no head, or `topk` is not positive.
        """
        if not self.num_classes:
            raise ValueError("the model has no head, only features: use beit.extract_feat")
        if topk < 1:
            raise ValueError(f"topk={topk}; expected 1 or more")
        with _evaluating(self.model):
            views = self.tensor(images, self.crops)
            independent = self.threshold is not None
            logits = view_logits(self._logits, views, flip=self.flip, independent=independent)
            scores = finite(probabilities(logits.astype("float32"), independent=independent))
        return [self._result(row, topk) for row in scores]

    def summary(self, result: dict[str, Any], topk: int = 5) -> dict[str, Any]:
        """All but `pred_scores`. `topk` is that of the call."""
        return {name: value for name, value in result.items() if name != "pred_scores"}

    def explain(self, image: Image.Image, result: dict[str, Any], side: int) -> tuple[Image.Image, str]:
        """The model's input blended with its attention: the rollout, or the last block's mean to save memory."""
        model = self.model
        tokens = model.patch_embed.num_patches + 1
        if 4 * model.depth * model.blocks[0].attn.num_heads * tokens**2 <= _ROLLOUT_BYTES:
            values, caption = self.attention_rollout(self.attentions(image)), "attention through all blocks"
        else:
            last = self.attentions(image, [model.depth - 1])[0]
            values, caption = self.attention_map(last).mean(axis=0), "attention of the last block"
        view = self.view(image)
        view = view.resize(fit_longer_side(view.size, side), Image.Resampling.BICUBIC)
        return overlay(view, values), caption

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Pooled features of RGB images, float32 `[B, D]`."""
        with _evaluating(self.model):
            return finite(self._features(self.tensor(images)))

    def outputs(
        self,
        images: Sequence[Image.Image],
        *,
        hidden_states: Sequence[int] = (),
        attentions: Sequence[int] = (),
    ) -> BeitOutput:
        """Tokens, pooled features, hidden states and attention weights, as `Beit.forward_outputs` returns them.

        Args:
            images: RGB.
            hidden_states: numbers of the blocks whose output tokens are returned, from 0.
            attentions: numbers of the blocks whose attention weights are returned, from 0.
        """
        with _evaluating(self.model):
            return self.model.forward_outputs(
                self.tensor(images), hidden_states=hidden_states, attentions=attentions
            )

    def attentions(self, image: Image.Image, blocks: Sequence[int] | None = None) -> list[np.ndarray]:
        """Attention weights `[H, N, N]` of one image, for each block.

        Args:
            image: RGB.
            blocks: numbers of the blocks, from 0; None for all.
        """
        blocks = range(self.model.depth) if blocks is None else blocks
        return [finite(weights[0]) for weights in self.outputs([image], attentions=blocks).attentions]

    def attention_map(self, weights: np.ndarray) -> np.ndarray:
        """How much the pooled token attends to each patch, `[H, h, w]`, for the weights `[H, N, N]` of a block."""
        model = self.model
        return attention_map(weights, model.patch_embed.grid_size, from_patches=model.use_mean_pooling)

    def attention_rollout(self, attentions: Sequence[np.ndarray]) -> np.ndarray:
        """Attention rollout `[h, w]` for the weights `[H, N, N]` of all blocks."""
        model = self.model
        return rollout(attentions, model.patch_embed.grid_size, from_patches=model.use_mean_pooling)

    def grad_cam(self, image: Image.Image, label: int, block: int | None = None) -> np.ndarray:
        """Grad-CAM of a class for one image, `[h, w]`: where the patch tokens after a block raise its logit.

        Args:
            image: RGB.
            label: number of the class.
            block: number of the block, from 0. None for the last one whose patch tokens the logits depend on: the last
                block of models that classify the mean of the patch tokens, else the one before it.

        Raises:
            ValueError: the model has no such class, or the logits do not depend on the patch tokens after this block.
        """
        model = self.model
        last = model.depth - (1 if model.use_mean_pooling else 2)
        block = last if block is None else block
        if not 0 <= label < self.num_classes:
            raise ValueError(f"class {label} does not exist; the model has {self.num_classes} classes")
        if not 0 <= block <= last:
            raise ValueError(f"block {block} has no Grad-CAM; the model has one for blocks 0 to {last}")
        (tokens,) = self.outputs([image], hidden_states=[block]).hidden_states  # [1, N, D]
        with _evaluating(model), _frozen(model), paddle.enable_grad():
            tokens.stop_gradient = False
            logits = model.head(model.pool(model.run_blocks(tokens, model.blocks[block + 1 :]).last))
            # Not `paddle.grad`, whose input gradient of LayerNorm is wrong on a CPU (docs/paddle-notes.md).
            logits[0, label].backward()
        return grad_cam(finite(tokens[0]), finite(tokens.grad[0]), model.patch_embed.grid_size)

    def view(self, image: Image.Image) -> Image.Image:
        """An RGB image as the model gets it: resized and cropped to the input size, not normalized."""
        pixels = prepare_image(image, self.image_size, self.preprocessing)
        return Image.fromarray(pixels.transpose(1, 2, 0))

    def tensor(self, images: Sequence[Image.Image], crops: int = 1) -> paddle.Tensor:
        """RGB images as input of the model, float32 `[B, 3, H, W]`; with five crops of each `[B, 5, 3, H, W]`."""
        size, given = self.image_size, self.preprocessing
        return self.normalize(np.stack([prepare_image(image, size, given, crops) for image in images]))

    def with_views(self, crops: int | None = None, flip: bool | None = None) -> Classifier:
        """This classifier with other views, over which it averages.

        Examples:
            >>> predictor = beit.load_predictor("output/run").with_views(crops=5, flip=True)

        Args:
            crops: 1 for the center, 5 for the four corners and the center; None keeps the number.
            flip: also predict the mirror images; None keeps it.

        Raises:
            ValueError: another number of crops.
        """
        if crops not in (None, 1, 5):
            raise ValueError(f"crops={crops}; expected 1 or 5 (ten crops are crops=5 with flip=True)")
        return replace(self, crops=crops or self.crops, flip=self.flip if flip is None else flip)

    def with_threshold(self, threshold: float) -> Classifier:
        """This classifier with another score from which on classes are predicted.

        Raises:
            ValueError: images have one label, or it is not a probability.
        """
        return replace(self, threshold=new_threshold(self.threshold, threshold))

    def name(self, label: int) -> str:
        """The name of a class, or `class N` where the classes have no names."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def label(self, name: int | str) -> int:
        """The number of a class.

        Args:
            name: a name (of a WordNet class one of its synonyms), or the number itself, also as text.

        Raises:
            ValueError: there is no such class, or several have this name.
        """
        names = [self.name(label) for label in range(self.num_classes)]
        if isinstance(name, str):
            found = [label for label, known in enumerate(names) if name in (known, *known.split(", "))]
        else:
            found = [name] if 0 <= name < self.num_classes else []
        if isinstance(name, str) and name.isdecimal() and not found:
            return self.label(int(name))
        if len(found) != 1:
            reason = f"is the name of classes {found}: give a number" if found else "does not exist"
            raise ValueError(f"class {name} {reason}; the model has classes 0 to {self.num_classes - 1}")
        return found[0]

    @cached_property
    def _logits(self) -> Function:
        return self._compiled("logits")

    @cached_property
    def _features(self) -> Function:
        return self._compiled("features")

    def _compiled(self, output: str) -> Function:
        size, engine, precision = self.image_size, self.engine, self.precision
        return compiled(self.model, output, size=size, engine=engine, precision=precision)

    def _result(self, scores: np.ndarray, topk: int) -> dict[str, Any]:
        best = np.argsort(-scores, kind="stable")
        result = class_result(
            best.tolist(), scores[best].tolist(), self.name, topk=topk, threshold=self.threshold
        )
        return result | {"pred_scores": scores}


def classifier(
    model: Beit,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: ClassNames | None = None,
    origin: str = "the model",
    engine: str = "paddle",
    precision: str = "float32",
) -> Classifier:
    """A model as a `Classifier`, with the preprocessing and class names that it carries or with those passed.

    Args:
        model: with its weights.
        preprocessing: its fields that are not None replace the model's; with `crop_pct` or `resize` the whole rule of
            resize and crop.
        class_names: of the K classes, or `imagenet-1k`, `imagenet-21k`. Names that are all WordNet identifiers, as
            ImageNet's folders are called, are spelled out.
        origin: what to call the model in messages.
        engine, precision: what runs the network; see `beit.deploy.compiled.CompiledModel`.

    Raises:
        ValueError: the preprocessing is unknown or impossible, or the number of names is not the number of classes.
    """
    complete = model.preprocessing or Preprocessing()
    if preprocessing is not None:
        preprocessing.check()
        given = {
            name: value for name, value in vars(preprocessing).items() if value is not None and value != ""
        }
        if preprocessing.crop_pct is None and preprocessing.resize is None and not preprocessing.squash:
            given = {name: value for name, value in given.items() if name not in ("squash", "center_crop")}
        else:
            complete = replace(complete, resize=None)
        complete = replace(complete, **given)
    if complete.unknown:
        reason = f" ({complete.source})" if complete.source else ""
        raise ValueError(
            f"the preprocessing of {origin} is not known: {', '.join(complete.unknown)} missing{reason}. Pass "
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
    return Classifier(model, complete, names, engine, precision)


@contextmanager
def _evaluating(model: paddle.nn.Layer) -> Iterator[None]:
    """The model in evaluation mode and without gradients; its mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        if was_training:
            model.train()


@contextmanager
def _frozen(model: paddle.nn.Layer) -> Iterator[None]:
    """No parameter gets a gradient, so that a backward pass leaves those of a training loop alone."""
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    for parameter in trained:
        parameter.stop_gradient = True
    try:
        yield
    finally:
        for parameter in trained:
            parameter.stop_gradient = False
