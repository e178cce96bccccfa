"""Training of VQ-KD, the tokenizer of BEiT v2."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor
from PIL import Image
from yacs.config import CfgNode

from beit.config import image_hw
from beit.cpu import split_batch
from beit.data.batch_transforms import unit_range
from beit.data.dataset import bad_images_file
from beit.data.features import TokenizerDataset, build_tokenizer_dataset
from beit.figures import save_image
from beit.models.hog import Hog
from beit.models.teachers import Teacher, load_teacher
from beit.models.tokenizer import build_vqkd
from beit.parallel import ranks
from beit.tasks.task import Batch, Sums, Task
from beit.tasks.token_figures import draw_code_map, draw_codebook

# B batch, N patches, K codes, T channels of the teacher

HEALTHY_USAGE = 0.5
"""Share of used codes below which the codebook counts as collapsing; after user reports (unilm issues 877, 936)."""
_MAX_CODE_DIM = 64  # above it most codes stay unused: unilm issue 1556, 7342 of 8192 codes of 1024 channels
_MAP_IMAGES = 8


class Tokenizer(Task):
    """Train a VQ-KD: reconstruct the features of a frozen teacher from the codes of a codebook.

    The teacher is in no checkpoint. In log lines, `usage`, `perplexity` and `dead_codes` are statistics of the recent
    steps (`NormEmaQuantizer.usage`); in evaluations, `usage` and `perplexity` are those of the evaluated images.
    Source: unilm/beit2/run_vqkd_training.py, engine_for_vqkd.py and TOKENIZER.md.

    Raises:
        ValueError, OSError: no teacher is configured, it cannot be read, or its features do not fit.
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        self.config = config
        keys = config.TOKENIZER
        if keys.TYPE != "vqkd":
            raise ValueError(
                f"TASK: tokenizer trains a VQ-KD, got TOKENIZER.TYPE = {keys.TYPE}; DALL-E comes trained"
            )
        if keys.TEACHER == "hog" and keys.TEACHER_PRETRAINED:
            raise ValueError(
                f"TOKENIZER.TEACHER = hog has no weights: leave out TOKENIZER.TEACHER_PRETRAINED {keys.TEACHER_PRETRAINED}"
            )
        if keys.TEACHER != "hog" and not keys.TEACHER_PRETRAINED:
            what = "the folder of its features" if keys.TEACHER == "features" else "its published weights"
            raise ValueError(f"TOKENIZER.TEACHER = {keys.TEACHER} needs TOKENIZER.TEACHER_PRETRAINED: {what}")
        if config.TRAIN.MODEL_EMA:
            raise ValueError(
                "TRAIN.MODEL_EMA would average the codebook, a moving average itself; set it to False"
            )
        if keys.CODE_DIM > _MAX_CODE_DIM:
            warnings.warn(
                f"TOKENIZER.CODE_DIM = {keys.CODE_DIM}: with more than {_MAX_CODE_DIM} channels most codes stay "
                "unused; the recipe has 32",
                stacklevel=2,
            )
        self.model = build_vqkd(config)
        self._check_first_batch()
        # In a tuple, so that Paddle does not register it as a sublayer: not trained, averaged or synchronized.
        self._frozen = () if keys.TEACHER == "features" else (self._load_teacher(),)
        self._was_collapsing = False

    def dataset(self, split: Literal["train", "val"]) -> TokenizerDataset | None:
        """Images, and with `TOKENIZER.TEACHER features` the stored features of the teacher."""
        keys = self.config.TOKENIZER
        return build_tokenizer_dataset(
            self.config,
            split,
            bad_images=bad_images_file(self.config, split),
            features=keys.TEACHER_PRETRAINED if keys.TEACHER == "features" else None,
        )

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """`loss`, `cosine_loss` and `commitment_loss`, and the codebook statistics of `NormEmaQuantizer.usage`."""
        images = unit_range(batch["image"])
        scalars = self.model(images, self._targets(batch, images), rng)
        del scalars["ids"]
        return scalars | self.model.quantize.usage()

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """`count`, the losses times `count`, and the number of uses of each code, `codes` `[K]`."""
        images = unit_range(batch["image"])
        outputs = self.model(images, self._targets(batch, images))
        count = images.shape[0]
        return {
            "count": paddle.to_tensor(count),
            "cosine_loss": count * outputs["cosine_loss"].astype("float64"),
            "commitment_loss": count * outputs["commitment_loss"].astype("float64"),
            "codes": paddle.bincount(outputs["ids"].flatten(), minlength=self.model.quantize.num_codes),
        }

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Mean losses, and of the codes of all images `codes_used`, `usage` (a share) and `perplexity`."""
        codes = np.atleast_1d(sums["codes"])
        share = codes[codes > 0] / codes.sum()
        losses = {name: sums[name] / sums["count"] for name in ("cosine_loss", "commitment_loss")}
        return {
            "loss": losses["cosine_loss"] + losses["commitment_loss"],
            **losses,
            "codes_used": float(len(share)),
            "usage": len(share) / len(codes),
            "perplexity": float(np.exp(-(share * np.log(share)).sum())),
            "count": sums["count"],
        }

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The negative cosine loss."""
        return -metrics["cosine_loss"]

    def health_warnings(self, means: Mapping[str, float], is_warm: bool) -> list[str]:
        """A warning when the codebook starts to collapse; it is not repeated while the codebook stays collapsed."""
        was_collapsing = self._was_collapsing
        self._was_collapsing = is_warm and means["usage"] < HEALTHY_USAGE
        if was_collapsing or not self._was_collapsing:
            return []
        keys = self.config.TOKENIZER
        return [
            f"the codebook collapses: {100 * means['usage']:.0f} % of {keys.NUM_CODES} codes were used in the last "
            f"{keys.DEAD_AFTER} steps. Take a larger total batch, fewer TOKENIZER.NUM_CODES (small data), at most 64 "
            "TOKENIZER.CODE_DIM, or TOKENIZER.RESEED_DEAD_CODES True"
        ]

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """Write the codes of a few images (`code_map.png`) and how often each code was used (`codebook.png`)."""
        images = batch["image"][:_MAP_IMAGES]
        maps = self.model.encode(unit_range(images)).numpy().reshape(-1, *self.model.grid_size)
        pairs = zip(images.numpy().transpose(0, 2, 3, 1), maps, strict=True)
        report = {
            "code map": np.concatenate([draw_code_map(*pair) for pair in pairs]),
            "codebook": draw_codebook(np.atleast_1d(sums["codes"])),
        }
        for name, image in report.items():
            save_image(Image.fromarray(image), folder / f"{name.replace(' ', '_')}.png")
        return report

    def _check_first_batch(self) -> None:
        keys, (height, width) = self.config.TOKENIZER, self.model.grid_size
        features = self.config.DATA.BATCH_SIZE * ranks.world_size() * height * width
        if keys.KMEANS_INIT and features < keys.NUM_CODES:
            warnings.warn(
                f"the codebook is initialized by k-means on one batch of {features} features, fewer than its "
                f"{keys.NUM_CODES} codes; take larger batches, fewer TOKENIZER.NUM_CODES, or "
                "TOKENIZER.RESEED_DEAD_CODES True",
                stacklevel=3,
            )

    def _load_teacher(self) -> Teacher | Hog:
        keys = self.config.TOKENIZER
        teacher: Teacher | Hog
        if keys.TEACHER == "hog":
            teacher = Hog(keys.PATCH_SIZE)
        else:
            teacher = load_teacher(
                keys.TEACHER,
                keys.TEACHER_PRETRAINED,
                key=keys.TEACHER_PRETRAINED_KEY,
                image_size=image_hw(self.config),
                num_heads=keys.TEACHER_NUM_HEADS,
            )
        if teacher.dim != keys.TEACHER_DIM:
            raise ValueError(
                f"the teacher {keys.TEACHER_PRETRAINED or keys.TEACHER} outputs {teacher.dim} channels; set TOKENIZER.TEACHER_DIM "
                f"{teacher.dim} (it is {keys.TEACHER_DIM})"
            )
        return teacher

    @paddle.no_grad()
    def _targets(self, batch: Batch, images: Tensor) -> Tensor:
        """Features `[B, N, T]`: stored ones, or those that the teacher computes."""
        return split_batch(self._frozen[0], images) if self._frozen else batch["target"]
