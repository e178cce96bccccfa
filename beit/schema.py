"""Every config key once: default, allowed values, meaning and unit.

`SCHEMA` is the only place where a key is declared; `beit/config.py` builds the tree from it and checks every value.
`RENAMED` and `RETIRED` let the YAML files of PaddleViT users load.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from beit.files import expand_path
from beit.preprocessing import PIL_FILTERS

Check = Callable[[Any], Any]
"""Takes a value from YAML or the command line; returns the clean value, or raises ValueError with what was expected."""


def integer(low: int | None = None, high: int | None = None) -> Check:
    """An integer from `low` to `high`, both included."""

    def check(value: Any) -> int:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not is_whole:
            raise ValueError("an integer")
        if abs(value) >= 2**63:
            raise ValueError("an integer below 2 ** 63")
        if low is not None and value < low:
            raise ValueError(f"an integer of at least {low}")
        if high is not None and value > high:
            raise ValueError(f"an integer of at most {high}")
        return int(value)

    return check


def number(low: float | None = None, high: float | None = None) -> Check:
    """A finite float from `low` to `high`, both included."""

    def check(value: Any) -> float:
        if isinstance(value, str):  # YAML 1.1 reads "4e-3" (no dot) as text
            try:
                value = float(value)
            except ValueError:
                raise ValueError("a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("a number")
        if not abs(value) <= sys.float_info.max:  # also NaN
            raise ValueError("a finite number")
        if low is not None and value < low:
            raise ValueError(f"a number of at least {low}")
        if high is not None and value > high:
            raise ValueError(f"a number of at most {high}")
        return float(value)

    return check


def flag(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def text(*choices: str) -> Check:
    """A string, one of `choices` if there are any."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("text")
        if choices and value not in choices:
            raise ValueError("one of " + ", ".join(repr(choice) for choice in choices))
        return value

    return check


def one_of(*choices: int) -> Check:
    """One of some integers."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or value not in choices:
            raise ValueError("one of " + ", ".join(map(str, choices)))
        return int(value)

    return check


def several(one: Check, length: int | None = None, *, may_be_empty: bool = False) -> Check:
    """A tuple of numbers that `one` accepts: `length` of them, or for None one or more (`may_be_empty`: or none)."""
    expected = f"a list of {length} numbers" if length else "a list of numbers such as [1, 2]"

    def check(value: Any) -> tuple[Any, ...]:
        is_list = isinstance(value, list | tuple)
        if not is_list or (len(value) != length if length else not (value or may_be_empty)):
            raise ValueError(expected)
        return tuple(one(item) for item in value)

    return check


def numbers(length: int, low: float | None = None, high: float | None = None) -> Check:
    """A tuple of `length` floats, each from `low` to `high`."""
    return several(number(low, high), length)


def optional(inner: Check) -> Check:
    """None (also written as "" or "None"), or a value that `inner` accepts."""

    def check(value: Any) -> Any:
        return None if value is None or value in ("", "None", "none") else inner(value)

    return check


def path(value: Any) -> str:
    """A path, with `~` and environment variables expanded."""
    if not isinstance(value, str):
        raise ValueError("a path")
    try:
        return expand_path(value)
    except ValueError as error:
        raise ValueError(f"a path that can be expanded: {error}") from None


optional_path = optional(path)


def betas(value: Any) -> tuple[float, ...]:
    """A pair of decay rates from 0 to below 1."""
    pair = numbers(2, 0.0, 1.0)(value)
    if max(pair) >= 1.0:
        raise ValueError("two numbers from 0 to below 1")
    return pair


def shorten(value: Any) -> str:
    """`repr` of a value for a message, at most 80 characters long."""
    return reprlib.repr(value)[:80]


def integer_or(word: str) -> Check:
    """A positive integer, or one word."""
    one = integer(1)

    def check(value: Any) -> int | str:
        if value == word:
            return word
        try:
            return int(one(value))
        except ValueError as expected:
            raise ValueError(f"{expected}, or {word!r}") from None

    return check


def words(*choices: str, may_be_empty: bool = False) -> Check:
    """A tuple of some of `choices`."""
    one = text(*choices)

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not (value or may_be_empty):
            raise ValueError("a list of " + ", ".join(repr(choice) for choice in choices))
        found = tuple(one(item) for item in value)
        if len(set(found)) != len(found):
            raise ValueError("each of them once")
        return found

    return check


def image_size(value: Any) -> int | tuple[int, int]:
    """The side of a square, or (height, width)."""
    one = integer(1, 2**15)
    if isinstance(value, list | tuple) and len(value) == 2:
        return (one(value[0]), one(value[1]))
    try:
        return int(one(value))
    except ValueError:
        raise ValueError("an integer from 1 to 32768, or a pair [height, width] of them") from None


def resized_size(value: Any) -> int | tuple[int, int]:
    """0, or an image size."""
    return 0 if value == 0 and not isinstance(value, bool) else image_size(value)


class Key(NamedTuple):
    """One config key: default value, check that returns the clean value, meaning with unit and source."""

    default: Any
    check: Check
    meaning: str

    @property
    def is_text(self) -> bool:
        """Whether values are strings that must not be parsed as YAML."""
        return isinstance(self.default, str) or self.check is optional_path


def is_path(key: str) -> bool:
    """Whether the value of a key is a path."""
    return SCHEMA[key].check in (path, optional_path)


# fmt: off
SCHEMA: dict[str, Key] = {
    "TASK": Key("classify", text("classify", "knn", "multilabel", "pretrain", "probe", "segment", "tokenizer"), "what is trained or evaluated: the file of that name in beit/tasks"),
    # ---- data
    "DATA.DATASET": Key("imagenet2012", text("imagenet2012", "folder", "csv", "test_folder", "flat", "webdataset", "parquet", "cifar10", "cifar100", "ade20k", "image_mask"), "imagenet2012: train_list.txt and val_list.txt; folder: train/<class>/… and val/<class>/…, or <class>/…, of which a part is held out; csv: train.csv and val.csv, lines `path,names` or a column of 0 and 1 for each class; test_folder: <class>/… for evaluation, some of the classes of the weights, or their numbers as in ImageNet-V2; flat: images without labels; webdataset: tars of samples; parquet: files of the Hugging Face hub; cifar10, cifar100: the published files; with TASK: segment ade20k (images/training and annotations/training, …) or image_mask (images/train and masks/train, …)"),
    "DATA.DATA_PATH": Key("/dataset/imagenet", path, "folder that holds the data"),
    "DATA.BATCH_SIZE": Key(32, integer(1, 10**6), "images per rank and micro-batch in training"),
    "DATA.BATCH_SIZE_EVAL": Key(None, optional(integer(1)), "images per rank in evaluation; None: BATCH_SIZE"),
    "DATA.IMAGE_SIZE": Key(224, image_size, "pixels: side, or (height, width)"),
    "DATA.CROP_PCT": Key(0.9, number(0.01, 1.0), "evaluation: crop side / resized shorter side"),
    "DATA.RESIZE": Key(None, optional(resized_size), "evaluation: pixels after the resize: shorter side (0: no resize), or [height, width], which does not keep the aspect ratio, as transformers' image processors; None: IMAGE_SIZE / CROP_PCT"),
    "DATA.CENTER_CROP": Key(True, flag, "evaluation with RESIZE: cut out the center; False: images must have the image size after the resize"),
    "DATA.INTERPOLATION": Key("bicubic", text(*PIL_FILTERS), "resize filter of evaluation, and of training unless TRAIN.INTERPOLATION is set"),
    "DATA.NUM_WORKERS": Key(None, optional(integer(0, 1024)), "decoding processes per rank; 0: in the training process; None: 4, or the CPU cores per rank where they are fewer"),
    "DATA.WORKER_TIMEOUT": Key(300.0, number(0.0), "seconds to wait for a batch before the run stops; 0: forever"),
    "DATA.IMAGENET_MEAN": Key((0.5, 0.5, 0.5), numbers(3), "channel means on [0, 1]; belongs to the checkpoint"),
    "DATA.IMAGENET_STD": Key((0.5, 0.5, 0.5), numbers(3, low=1e-6), "channel deviations on [0, 1]; belongs to the checkpoint"),
    "DATA.EXIF_ORIENTATION": Key(None, optional(flag), "turn images as their EXIF orientation says, in training, evaluation and prediction; None: yes, but data sets of the published protocols are read as stored (imagenet2012 and test_folder with 1000 or 21841 classes, ade20k)"),
    "DATA.SCALED_DECODING": Key(True, flag, "training on single crops: decode a JPEG at 1/2, 1/4 or 1/8 size if the crop still has at least the pixels it is resized to; pixel values then differ by 1 of 255 on average. Evaluation always decodes at full size"),
    "DATA.MAX_PIXELS": Key(178956970, integer(1), "images with more pixels are refused before decoding"),
    "DATA.MATCH_CLASS_NAMES": Key(True, flag, "where weights and data name their classes, match labels by name and refuse other names; False: label k is output k whatever the names are"),
    "DATA.MAX_BAD_FRACTION": Key(0.01, number(0.0, 1.0), "fraction of the training images that may be unreadable; the run stops when it is exceeded"),
    # ---- model
    "MODEL.NAME": Key("beit", text(), "name of the variant, shown in logs and stored with the weights"),
    "MODEL.PRETRAINED": Key(None, optional_path, "weights to start from or to evaluate"),
    "MODEL.PRETRAINED_KEY": Key("", text(), "key or prefix of the state dict to take from MODEL.PRETRAINED, such as ema or teacher; '': as its publisher evaluates"),
    "MODEL.RESUME": Key(None, optional_path, "training checkpoint to continue; 'auto': the newest in the output folder"),
    "MODEL.NUM_CLASSES": Key(1000, integer(0, 10**7), "classes; 0: no head"),
    "MODEL.NUM_CLASSES_FROM_DATA": Key(True, flag, "training, probe and kNN: the number of classes of the data replaces NUM_CLASSES; False as soon as NUM_CLASSES is stated in options or in a config file of one's own"),
    "MODEL.PATCH_SIZE": Key(16, integer(1, 4096), "pixels: side of a patch"),
    "MODEL.EMBED_DIM": Key(768, integer(1, 2**16), "width D"),
    "MODEL.DEPTH": Key(12, integer(1, 1000), "blocks L"),
    "MODEL.NUM_HEADS": Key(12, integer(1, 2**16), "attention heads H"),
    "MODEL.ATTN_HEAD_SIZE": Key(None, optional(integer(1, 2**16)), "channels per head; None: EMBED_DIM / NUM_HEADS"),
    "MODEL.MLP_RATIO": Key(4.0, number(0.01, 100.0), "hidden width of the MLP / D"),
    "MODEL.QKV_BIAS": Key(True, flag, "learned q and v bias (the key has none)"),
    "MODEL.QK_SCALE": Key(None, optional(number(0.0)), "factor of q; None: head size ** -0.5"),
    "MODEL.DROPOUT": Key(0.0, number(0.0, 1.0), "dropout after embedding, attention projection and MLP"),
    "MODEL.ATTENTION_DROPOUT": Key(0.0, number(0.0, 1.0), "dropout of the attention weights"),
    "MODEL.DROPPATH": Key(0.0, number(0.0, 1.0), "stochastic depth of the last block, linear from 0"),
    "MODEL.LAYER_NORM_EPS": Key(1e-6, number(0.0, 1e-3), "LayerNorm epsilon, at most what Paddle's kernel takes; transformers' published files state 1e-12"),
    "MODEL.INIT_VALUES": Key(0.1, number(0.0), "initial LayerScale (0.1 base, 1e-5 large); 0: none"),
    "MODEL.INIT_SCALE": Key(0.001, number(0.0), "factor on the initial head"),
    "MODEL.USE_ABS_POS_EMB": Key(False, flag, "learned absolute positions"),
    "MODEL.USE_REL_POS_BIAS": Key(True, flag, "one relative position table per block"),
    "MODEL.USE_SHARED_REL_POS_BIAS": Key(False, flag, "one relative position table for all blocks"),
    "MODEL.USE_MEAN_POOLING": Key(True, flag, "mean of patches + fc_norm; False: norm + class token"),
    "MODEL.LORA.RANK": Key(0, integer(0, 2**16), "rank of trained low-rank factors (LoRA) beside the frozen weights of MODEL.PRETRAINED; head and norm are trained too; 0: off"),
    "MODEL.LORA.ALPHA": Key(8.0, number(1e-6), "LoRA: the update is scaled by ALPHA / RANK"),
    "MODEL.LORA.TARGETS": Key(("qkv",), words("qkv", "proj", "fc1", "fc2"), "LoRA: which Linear layers of a block: of the attention (qkv, proj), of the MLP (fc1, fc2)"),
    "MODEL.LORA.BLOCKS": Key((), several(integer(1), may_be_empty=True), "LoRA: which blocks, from 1; empty: all"),
    # ---- training
    "TRAIN.LAST_EPOCH": Key(0, integer(0), "epochs already done when starting from weights alone"),
    "TRAIN.NUM_EPOCHS": Key(100, integer(1), "epochs"),
    "TRAIN.WARMUP_EPOCHS": Key(20.0, number(0.0), "epochs of linear warm-up"),
    "TRAIN.MAX_STEPS": Key(None, optional(integer(1)), "optimizer steps of the whole run; None: NUM_EPOCHS"),
    "TRAIN.EARLY_STOP": Key(None, optional(integer(1)), "end the run after this many evaluations in a row without a better metric than the best (that of best.pdparams); None: never"),
    "TRAIN.SCHEDULE": Key("cosine", text("cosine", "poly"), "decay of the rate after the warm-up; poly: a straight line, which also runs under the warm-up"),
    "TRAIN.WARMUP_STEPS": Key(None, optional(integer(0)), "steps of linear warm-up; None: WARMUP_EPOCHS"),
    "TRAIN.LR_PER_EPOCH": Key(False, flag, "the learning rate changes only between epochs (as the official linear probe)"),
    "TRAIN.SCHEDULE_OFFSET": Key(0.0, number(0.0, 1.0), "steps by which the schedules are ahead; 0.5: a step of two micro-batches has the rates of the second, as mmcv"),
    "TRAIN.WARMUP_START_LR": Key(0.0, number(0.0), "learning rate of the first step"),
    "TRAIN.BASE_LR": Key(4e-3, number(0.0), "peak learning rate"),
    "TRAIN.END_LR": Key(1e-6, number(0.0), "learning rate at the end of the cosine"),
    "TRAIN.LINEAR_SCALED_LR": Key(None, optional(integer(1)), "total batch for which the learning rates are stated; they are scaled to the real total batch; None: rates are absolute"),
    "TRAIN.TOTAL_BATCH": Key(None, optional(integer(1)), "total batch of the recipe; the log warns when the run's differs"),
    "TRAIN.WEIGHT_DECAY": Key(0.05, number(0.0), "weight decay of the first step"),
    "TRAIN.WEIGHT_DECAY_END": Key(None, optional(number(0.0)), "weight decay at the end of its cosine; None: constant"),
    "TRAIN.LAYER_DECAY": Key(1.0, number(1e-6, 1.0), "factor of the rate per layer towards the input; 1: off"),
    "TRAIN.DECAY_REL_POS_BIAS": Key(True, flag, "weight decay on relative position tables, as the official code"),
    "TRAIN.GRAD_CLIP": Key(None, optional(number(0.0)), "largest global gradient norm; None or 0: off"),
    "TRAIN.ACCUM_ITER": Key(1, integer(1), "micro-batches per optimizer step"),
    "TRAIN.DROP_LAST": Key(True, flag, "leave out the images that do not fill the last step of an epoch; False: a smaller last step, as the official linear probe"),
    "TRAIN.OPTIMIZER.EPS": Key(1e-8, number(0.0), "AdamW epsilon"),
    "TRAIN.OPTIMIZER.BETAS": Key((0.9, 0.999), betas, "AdamW betas"),
    "TRAIN.MODEL_EMA": Key(False, flag, "keep and evaluate a moving average of the weights"),
    "TRAIN.MODEL_EMA_DECAY": Key(0.9999, number(0.0, 1.0), "decay of the moving average per step"),
    "TRAIN.RECOMPUTE": Key(False, flag, "recompute block activations in the backward pass: less memory, more time"),
    "TRAIN.SHARDING_STAGE": Key(0, integer(0, 3), "GPUs, for models that do not fit: 1 or 2 shards optimizer state and gradients over the ranks; 0: off (docs/scaling.md)"),
    "TRAIN.FREEZE_LAYERS": Key(0, integer(0), "layers not trained, from the input: 1 is the embedding, k + 1 the first k blocks too"),
    "TRAIN.INTERPOLATION": Key(None, optional(text(*PIL_FILTERS)), "resize filter of the training transform; None: DATA.INTERPOLATION. Segmentation resizes bilinearly"),
    "TRAIN.SCALE": Key((0.08, 1.0), numbers(2, 0.0, 1.0), "area of the random resized crop as a fraction of the image"),
    "TRAIN.RATIO": Key((3 / 4, 4 / 3), numbers(2, 0.01), "aspect ratio of the random resized crop"),
    "TRAIN.HFLIP": Key(0.5, number(0.0, 1.0), "probability of the horizontal flip"),
    "TRAIN.AUTO_AUGMENT": Key("rand-m9-mstd0.5-inc1", text(), "RandAugment policy; empty: none"),
    "TRAIN.COLOR_JITTER": Key(0.4, number(0.0), "strength of color jitter; only without AUTO_AUGMENT, as timm. TASK: classify and probe apply it after the crop, pretrain and tokenizer before"),
    "TRAIN.RANDOM_ERASE_PROB": Key(0.25, number(0.0, 1.0), "probability of random erasing"),
    "TRAIN.RANDOM_ERASE_MODE": Key("pixel", text("pixel", "rand", "const"), "fill: noise per pixel, one color, zero"),
    "TRAIN.RANDOM_ERASE_COUNT": Key(1, integer(1), "largest number of boxes per erased image; the number is uniform from 1, and the area is divided by it"),
    "TRAIN.REPEATED_AUG": Key(1, integer(1), "times each sampled image is repeated with new augmentation (DeiT)"),
    "TRAIN.MIXUP_ALPHA": Key(0.8, number(0.0), "Beta parameter of mixup; 0: off"),
    "TRAIN.CUTMIX_ALPHA": Key(1.0, number(0.0), "Beta parameter of cutmix; 0: off"),
    "TRAIN.CUTMIX_MINMAX": Key(None, optional(numbers(2, 0.0, 1.0)), "range of the cutmix box side as a fraction of the image, instead of Beta"),
    "TRAIN.MIXUP_PROB": Key(1.0, number(0.0, 1.0), "probability of mixing at all"),
    "TRAIN.MIXUP_SWITCH_PROB": Key(0.5, number(0.0, 1.0), "probability of cutmix when both are on"),
    "TRAIN.MIXUP_MODE": Key("batch", text("batch", "pair", "elem"), "one draw per batch, pair or element"),
    "TRAIN.SMOOTHING": Key(0.1, number(0.0, 1.0), "label smoothing"),
    "TRAIN.LOSS": Key("ce", text("ce", "bce"), "classification: cross entropy, or binary cross entropy of each class (timm, DeiT III)"),
    "TRAIN.BCE_THRESHOLD": Key(None, optional(number(0.0, 1.0)), "bce: targets above it become 1, the others 0 (DeiT III: 0); None: smoothed and mixed targets as they are"),
    "TRAIN.BCE_SUM": Key(False, flag, "bce: sum over the classes instead of their mean"),
    "TRAIN.DISTILL.TEACHER": Key(None, optional_path, "classification: weights, run folder or published name of a classifier whose predictions are learned beside the labels"),
    "TRAIN.DISTILL.KIND": Key("soft", text("soft", "hard"), "what is learned from the teacher: its probabilities (Hinton, timm), or its best class (DeiT)"),
    "TRAIN.DISTILL.WEIGHT": Key(0.5, number(0.0, 1.0), "factor of the teacher's loss; that of the labels has 1 - WEIGHT"),
    "TRAIN.DISTILL.TEMPERATURE": Key(1.0, number(0.01), "soft: logits of both are divided by it, and the loss is multiplied by its square"),
    # ---- tokenizer
    "TOKENIZER.TYPE": Key("vqkd", text("vqkd", "dall-e"), "what turns images into token ids: VQ-KD (BEiT v2) or DALL-E's dVAE (BEiT v1)"),
    "TOKENIZER.PRETRAINED": Key(None, optional_path, "weights of the tokenizer (of DALL-E: the encoder)"),
    "TOKENIZER.PRETRAINED_KEY": Key("", text(), "key or prefix of the state dict to take from TOKENIZER.PRETRAINED, as MODEL.PRETRAINED_KEY"),
    "TOKENIZER.ALLOW_RANDOM": Key(False, flag, "pre-train although TOKENIZER.PRETRAINED names no weights, for trials of speed and memory: the tokens mean nothing"),
    "TOKENIZER.PRETRAINED_DECODER": Key(None, optional_path, "weights of DALL-E's decoder, used only for preview images"),
    "TOKENIZER.PRETRAINED_DECODER_KEY": Key("", text(), "key or prefix of the state dict to take from TOKENIZER.PRETRAINED_DECODER, as MODEL.PRETRAINED_KEY"),
    "TOKENIZER.NUM_CODES": Key(8192, integer(1, 10**7), "size of the vocabulary"),
    "TOKENIZER.CODE_DIM": Key(32, integer(1, 2**16), "VQ-KD: channels of a code; above 64 most codes stay unused"),
    "TOKENIZER.PATCH_SIZE": Key(16, integer(1, 4096), "VQ-KD: pixels, side of a patch"),
    "TOKENIZER.EMBED_DIM": Key(768, integer(1, 2**16), "VQ-KD: width of encoder and decoder"),
    "TOKENIZER.DEPTH": Key(12, integer(1, 1000), "VQ-KD: blocks of the encoder"),
    "TOKENIZER.NUM_HEADS": Key(12, integer(1, 2**16), "VQ-KD: attention heads of encoder and decoder"),
    "TOKENIZER.DECODER_DEPTH": Key(3, integer(1, 1000), "VQ-KD: blocks of the decoder"),
    "TOKENIZER.CODEBOOK_DECAY": Key(0.99, number(0.0, 1.0), "VQ-KD: decay of the moving average of a code, per step"),
    "TOKENIZER.COMMITMENT": Key(1.0, number(0.0), "VQ-KD: weight of the distance between features and their codes"),
    "TOKENIZER.KMEANS_INIT": Key(True, flag, "VQ-KD: initialize the codes by k-means on the first batch; False: randomly"),
    "TOKENIZER.DEAD_AFTER": Key(100, integer(1), "VQ-KD: steps without use after which a code is dead"),
    "TOKENIZER.RESEED_DEAD_CODES": Key(False, flag, "VQ-KD: replace dead codes by features of the current batch"),
    "TOKENIZER.TEACHER": Key("clip", text("clip", "dino", "beit", "hog", "features"), "VQ-KD: source of the target features: a frozen network (beit: your own classifier), gradients and colors of the patches (hog), or stored features"),
    "TOKENIZER.TEACHER_PRETRAINED": Key(None, optional_path, "VQ-KD: weights of the teacher, or the folder of stored features"),
    "TOKENIZER.TEACHER_PRETRAINED_KEY": Key("", text(), "VQ-KD: key or prefix of the state dict to take from TOKENIZER.TEACHER_PRETRAINED, as MODEL.PRETRAINED_KEY"),
    "TOKENIZER.TEACHER_DIM": Key(512, integer(1, 2**16), "VQ-KD: channels of the teacher's features: 512 CLIP ViT-B/16, 768 DINO ViT-B/16, 111 hog"),
    "TOKENIZER.TEACHER_NUM_HEADS": Key(None, optional(integer(1)), "VQ-KD: attention heads of the teacher; None: one per 64 channels"),
    "TOKENIZER.DALLE_WIDTH": Key(256, integer(4, 2**16), "DALL-E: channels of its first group"),
    "TOKENIZER.DALLE_GROUPS": Key(4, integer(1, 10), "DALL-E: groups of two blocks; a token covers 2 ** (groups - 1) pixels a side"),
    "TOKENIZER.DALLE_CODE_WIDTH": Key(128, integer(1, 2**16), "DALL-E: channels a token is embedded into by the decoder"),
    # ---- pretrain (TASK: pretrain)
    "MODEL.EARLY_LAYERS": Key(0, integer(0), "BEiT v2: blocks before the patch aggregation branches off (9 base, 21 large); 0: BEiT v1"),
    "MODEL.HEAD_LAYERS": Key(2, integer(1, 1000), "BEiT v2: extra blocks of the patch aggregation"),
    "MODEL.SHARED_LM_HEAD": Key(True, flag, "BEiT v2: both branches use one norm and one head"),
    "DATA.SECOND_INTERPOLATION": Key("lanczos", text("bicubic", "bilinear", "lanczos"), "resize filter of the tokenizer's view (v1 lanczos, v2 bicubic)"),
    "DATA.TOKEN_CACHE": Key(None, optional_path, "file of token ids, computed once per image and written if it does not exist; each image then has one fixed crop"),
    "MASK.RULE": Key("at_most", text("at_most", "exact", "random"), "blocks of at most NUM_PATCHES (v1), exactly NUM_PATCHES (v2), or single patches"),
    "MASK.NUM_PATCHES": Key(None, optional(integer(1)), "masked patches; None: 75 of 196, scaled to the grid and rounded"),
    "MASK.MIN_BLOCK": Key(None, optional(integer(1)), "patches of the smallest block; None: 16 of 196, scaled to the grid and rounded"),
    "MASK.MAX_BLOCK": Key(None, optional(integer(1)), "patches of the largest block; None: NUM_PATCHES"),
    # ---- probe, knn
    "PROBE.LAYERS": Key((), several(integer(1), may_be_empty=True), "blocks whose features are classified, from 1; empty: all"),
    "PROBE.KINDS": Key(("class", "patches", "both"), words("class", "patches", "both"), "features: class token, mean of the patch tokens, both concatenated"),
    "PROBE.OPTIMIZER": Key("adamw", text("adamw", "sgd"), "linear probe: AdamW with TRAIN.WEIGHT_DECAY, or SGD (momentum 0.9) without"),
    "PROBE.USE_NORM": Key(False, flag, "apply the final norm of the pre-trained model to the features; needs MODEL.USE_MEAN_POOLING False"),
    "PROBE.BATCH_NORM": Key(False, flag, "linear probe: batch-normalize the features first (MAE); helps when they are small or training is short"),
    "PROBE.NEIGHBORS": Key(20, integer(1), "kNN: neighbors that vote"),
    "PROBE.TEMPERATURE": Key(0.07, number(1e-6), "kNN: a neighbor votes with exp(cosine / TEMPERATURE)"),
    "PROBE.KNN_IMAGES": Key(None, optional(integer(1)), "kNN: training images to compare with, spread evenly over the data set; None: all"),
    # ---- segment (TASK: segment)
    "DATA.ALLOW_ABSENT_CLASSES": Key(False, flag, "train although a class has no pixel in any mask, or all pixels are ignored"),
    "DATA.REDUCE_ZERO_LABEL": Key(False, flag, "mask value 0 means no class and is ignored, 1 is the first class (ADE20K)"),
    "DATA.IGNORE_LABEL": Key(255, integer(0), "mask value of pixels that are ignored in loss and metrics"),
    "DATA.RESIZE_LIMITS": Key((2048, 512), several(integer(1), 2), "pixels: images are scaled to the largest size within these limits of the longer and the shorter side"),
    "MODEL.OUT_INDICES": Key(None, optional(several(integer(0))), "four blocks (from 0) whose outputs become the pyramid; None: as published for this depth"),
    "MODEL.DECODER_CHANNELS": Key(None, optional(integer(1, 2**16)), "channels inside UPerHead; None: EMBED_DIM"),
    "MODEL.AUXILIARY_CHANNELS": Key(256, integer(0, 2**16), "channels inside the auxiliary head; 0: none"),
    "MODEL.POOL_SCALES": Key((1, 2, 3, 6), several(integer(1, 1024)), "sides of UPerHead's pooled maps"),
    "MODEL.DECODER_DROPOUT": Key(0.1, number(0.0, 1.0), "dropout of channels before the classifiers of both heads"),
    "TRAIN.AUXILIARY_WEIGHT": Key(0.4, number(0.0), "factor of the auxiliary head's loss"),
    "TRAIN.RESIZE_RATIO": Key((0.5, 2.0), numbers(2, 0.01), "range of the random factor on RESIZE_LIMITS"),
    "TRAIN.CAT_MAX_RATIO": Key(0.75, number(0.0, 1.0), "crops in which one class covers more than this fraction are drawn again, up to ten times; 1: off"),
    "TRAIN.PHOTOMETRIC": Key(True, flag, "random brightness, contrast, saturation, hue"),
    "TEST.MODE": Key("slide", text("slide", "whole"), "slide: windows of DATA.IMAGE_SIZE; whole: the image at once"),
    "TEST.STRIDE": Key(None, optional(integer(1)), "pixels between windows; None: two thirds of the window"),
    "TEST.SCALES": Key((1.0,), several(number(0.01)), "factors on RESIZE_LIMITS whose probabilities are averaged"),
    "TEST.FLIP": Key(False, flag, "classification and segmentation: average with the mirrored image"),
    "TEST.REAL_LABELS": Key(None, optional_path, "classification: real.json; the prediction for an ImageNet validation image is correct if its class is in the set of labels, and images without any do not count"),
    "TEST.THRESHOLD": Key(0.5, number(0.0, 1.0), "multilabel: score from which on a class is predicted, in precision, recall, F1 and predict"),
    "TEST.CROPS": Key(1, one_of(1, 5), "classification: 5 averages the probabilities of the four corners and the center; with FLIP ten crops. The margins are those that DATA.CROP_PCT or RESIZE leaves"),
    "TEST.CLASS_SUBSET": Key(False, flag, "classification: the validation images may be of some of the classes, which are matched by name; the other outputs do not take part (ImageNet-A, -R)"),
    # ---- run
    "SAVE": Key("./output", path, "output folder: logs, config, checkpoints"),
    "SAVE_FREQ": Key(1, integer(1), "epochs between kept checkpoints"),
    "SAVE_STEPS": Key(0, integer(0), "steps between writes of the latest checkpoint inside an epoch; 0: at its end only"),
    "KEEP_LAST": Key(3, integer(1), "kept epoch checkpoints"),
    "REPORT_FREQ": Key(50, integer(1), "steps between log lines"),
    "VALIDATE_FREQ": Key(1, integer(1), "epochs between evaluations"),
    "LOGGERS": Key(("visualdl",), words("visualdl", "tensorboard", "wandb", may_be_empty=True), "dashboards beside log.txt and metrics.jsonl; all but the first are extras: pip install \"beit-paddle[tensorboard]\", [wandb]; []: none"),
    "SEED": Key(0, integer(0), "seed of all random numbers"),
    "EVAL": Key(False, flag, "evaluate only"),
    "AMP": Key(False, flag, "bfloat16 where the device has it, else float16 with loss scaling"),
    "DEVICE": Key("auto", text("auto", "cpu", "gpu"), "auto: GPUs where Paddle sees them, else the CPU with a warning"),
    "ENGINE": Key("auto", text("auto", "openvino", "onnxruntime", "paddle"), "what runs the model with -eval; auto: on a CPU OpenVINO or onnxruntime if installed, else Paddle"),
    "PRECISION": Key("float32", text("float32", "bfloat16", "int8"), "of the engine with -eval: bfloat16 on OpenVINO, int8 on OpenVINO and onnxruntime; the images are evaluated in float32 as well then, for comparison"),
    "NPROCS": Key(None, optional(integer_or("auto")), "ranks on this machine; None: one per visible GPU, or one on a CPU; auto: one per visible GPU or CPU core"),
    "RANK_TIMEOUT": Key(1800.0, number(0.0), "seconds without a step, evaluation batch or save after which a job of several ranks ends; 0: never"),
    "RANK_GRACE": Key(10.0, number(0.0), "seconds that the other ranks have to stop after one has died"),
}
# fmt: on

_TRANS = (
    "PATCH_SIZE EMBED_DIM DEPTH NUM_HEADS MLP_RATIO QKV_BIAS USE_ABS_POS_EMB USE_REL_POS_BIAS INIT_VALUES"
)

RENAMED: dict[str, str] = {
    **{f"MODEL.TRANS.{leaf}": f"MODEL.{leaf}" for leaf in _TRANS.split()},
    "AUG.COLOR_JITTER": "TRAIN.COLOR_JITTER",
    "AUG.AUTO_AUGMENT": "TRAIN.AUTO_AUGMENT",
    "AUG.RE_PROB": "TRAIN.RANDOM_ERASE_PROB",
    "AUG.RE_MODE": "TRAIN.RANDOM_ERASE_MODE",
    "AUG.RE_COUNT": "TRAIN.RANDOM_ERASE_COUNT",
    "AUG.MIXUP": "TRAIN.MIXUP_ALPHA",
    "AUG.CUTMIX": "TRAIN.CUTMIX_ALPHA",
    "AUG.CUTMIX_MINMAX": "TRAIN.CUTMIX_MINMAX",
    "AUG.MIXUP_PROB": "TRAIN.MIXUP_PROB",
    "AUG.MIXUP_SWITCH_PROB": "TRAIN.MIXUP_SWITCH_PROB",
    "AUG.MIXUP_MODE": "TRAIN.MIXUP_MODE",
    "TRAIN.RAND_AUGMENT": "TRAIN.AUTO_AUGMENT",
    "NGPUS": "NPROCS",
    "PROBE.NEIGHBOURS": "PROBE.NEIGHBORS",
}
"""Keys of PaddleViT's BEiT files, and former keys of this package -> today's name."""


class Retired(NamedTuple):
    """A key without a counterpart: the values that match what this package does (None: any), and the reason."""

    accepted: tuple[Any, ...] | None
    reason: str


RETIRED: dict[str, Retired] = {
    "MODEL.TYPE": Retired(None, "TASK chooses what is built"),
    "MODEL.VAE_TYPE": Retired(None, "only pre-training uses a tokenizer"),
    "DATA.SECOND_IMAGE_SIZE": Retired(None, "only pre-training has a second view"),
    "DATA.IMAGE_CHANNELS": Retired((3,), "images are RGB"),
    "TRAIN.LR_SCHEDULER.NAME": Retired(("warmupcosine",), "the rate is linear warm-up and cosine, per step"),
    "TRAIN.LR_SCHEDULER.MILESTONES": Retired(None, "the rate is linear warm-up and cosine, per step"),
    "TRAIN.LR_SCHEDULER.DECAY_EPOCHS": Retired(None, "the rate is linear warm-up and cosine, per step"),
    "TRAIN.LR_SCHEDULER.DECAY_RATE": Retired(None, "the rate is linear warm-up and cosine, per step"),
    "TRAIN.OPTIMIZER.NAME": Retired(
        ("AdamW", "AdamWDL"), "the optimizer is AdamW; TRAIN.LAYER_DECAY sets its layer decay"
    ),
    "TRAIN.OPTIMIZER.MOMENTUM": Retired(None, "AdamW has TRAIN.OPTIMIZER.BETAS"),
    "TRAIN.RAND_AUGMENT_LAYERS": Retired(
        (2,), "write the policy into TRAIN.AUTO_AUGMENT, e.g. rand-m9-n3-mstd0.5-inc1"
    ),
    "TRAIN.RAND_AUGMENT_MAGNITUDE": Retired(
        (9,), "write the policy into TRAIN.AUTO_AUGMENT, e.g. rand-m7-mstd0.5-inc1"
    ),
    "TRAIN.RANDOM_ERASE_SPLIT": Retired((False,), "the recipes do not split"),
    "TRAIN.STATIC_GRAPH": Retired((False,), "training runs eagerly"),
    "TRAIN.MODEL_EMA_FORCE_CPU": Retired(None, "the average is on the device of the weights"),
    "TAG": Retired(None, "name the output folder with SAVE"),
    "LOCAL_RANK": Retired(None, "ranks come from the launcher"),
}


def clean_legacy(key: str, value: Any) -> Any:
    """Value of a renamed or reused PaddleViT key in today's meaning: True / False of AUTO_AUGMENT, -1 of NGPUS."""
    if key == "TRAIN.AUTO_AUGMENT" and (isinstance(value, bool) or value is None):
        return SCHEMA[key].default if value else ""
    if key == "NPROCS" and value == -1:
        return None
    if key == "TRAIN.CUTMIX_MINMAX" and value == []:
        return None
    return value
