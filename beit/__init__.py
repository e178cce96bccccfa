"""BEiT and BEiT v2 for PaddlePaddle.

The public names are imported on first use: data workers and file readers do not need Paddle, whose import takes seconds
and hundreds of megabytes.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from beit.install import check_paddle
from beit.version import VERSION

if TYPE_CHECKING:
    from beit.beit import Beit, BeitOutput, build_backbone, build_beit, build_head
    from beit.config import get_config
    from beit.cpu import tune_cpu
    from beit.layers.lora import add_lora, merge_lora
    from beit.models.features import FeatureMaps
    from beit.models.load import load_pretrained
    from beit.models.mim import build_mim
    from beit.models.published import get_model
    from beit.models.tokenizer import build_tokenizer
    from beit.models.upernet import build_upernet
    from beit.predict.attention_figure import draw_attention, draw_cam
    from beit.predict.comparison import compare, draw_comparison
    from beit.predict.image_index import ImageIndex, open_index
    from beit.predict.image_processor import BeitImageProcessor
    from beit.predict.index_figures import draw_features, draw_nearest
    from beit.predict.inference import extract_feat, inference_model, load_predictor
    from beit.predict.inferencers import FeatureExtractor, ImageClassificationInferencer
    from beit.predict.predictions import draw_confusion, draw_predictions, validation_predictions
    from beit.predict.resolve import load_model
    from beit.predict.run_figures import draw_augmentation, draw_curves, draw_masked, draw_schedule
    from beit.predict.shape_bias import draw_shape_bias, shape_bias
    from beit.predict.tokens import draw_tokens
    from beit.preprocessing import Preprocessing
    from beit.train.api import RunResult, evaluate, train
    from beit.train.average import average
    from beit.zoo import list_models

__version__ = VERSION

# Paddle warns at import when it finds no compiler cache; nothing is compiled here.
warnings.filterwarnings("ignore", message="No ccache found")
# Paddle 3.2 warns those who come from PyTorch at the first `max`, `split`, … of a process; these calls are Paddle's.
warnings.filterwarnings("ignore", message=r"\s*Non compatible API", category=Warning)

_MODULE_OF = {
    "Beit": "beit.beit",
    "BeitOutput": "beit.beit",
    "FeatureMaps": "beit.models.features",
    "Preprocessing": "beit.preprocessing",
    "extract_feat": "beit.predict.inference",
    "ImageIndex": "beit.predict.image_index",
    "open_index": "beit.predict.image_index",
    "inference_model": "beit.predict.inference",
    "load_predictor": "beit.predict.inference",
    "load_model": "beit.predict.resolve",
    "ImageClassificationInferencer": "beit.predict.inferencers",
    "FeatureExtractor": "beit.predict.inferencers",
    "BeitImageProcessor": "beit.predict.image_processor",
    "build_beit": "beit.beit",
    "build_backbone": "beit.beit",
    "build_head": "beit.beit",
    "build_upernet": "beit.models.upernet",
    "build_mim": "beit.models.mim",
    "build_tokenizer": "beit.models.tokenizer",
    "add_lora": "beit.layers.lora",
    "merge_lora": "beit.layers.lora",
    "get_config": "beit.config",
    "load_pretrained": "beit.models.load",
    "get_model": "beit.models.published",
    "list_models": "beit.zoo",
    "tune_cpu": "beit.cpu",
    "train": "beit.train",
    "draw_attention": "beit.predict.attention_figure",
    "draw_augmentation": "beit.predict.run_figures",
    "draw_cam": "beit.predict.attention_figure",
    "shape_bias": "beit.predict.shape_bias",
    "compare": "beit.predict.comparison",
    "draw_comparison": "beit.predict.comparison",
    "draw_confusion": "beit.predict.predictions",
    "draw_curves": "beit.predict.run_figures",
    "draw_features": "beit.predict.index_figures",
    "draw_masked": "beit.predict.run_figures",
    "draw_nearest": "beit.predict.index_figures",
    "draw_predictions": "beit.predict.predictions",
    "draw_schedule": "beit.predict.run_figures",
    "draw_shape_bias": "beit.predict.shape_bias",
    "draw_tokens": "beit.predict.tokens",
    "validation_predictions": "beit.predict.predictions",
    "evaluate": "beit.train.api",
    "average": "beit.train.average",
    "RunResult": "beit.train.api",
}

__all__ = [
    "Beit",
    "BeitOutput",
    "Preprocessing",
    "BeitImageProcessor",
    "FeatureExtractor",
    "FeatureMaps",
    "ImageClassificationInferencer",
    "ImageIndex",
    "add_lora",
    "merge_lora",
    "build_backbone",
    "build_beit",
    "build_head",
    "build_upernet",
    "build_mim",
    "build_tokenizer",
    "extract_feat",
    "get_config",
    "get_model",
    "inference_model",
    "list_models",
    "load_model",
    "load_predictor",
    "load_pretrained",
    "open_index",
    "tune_cpu",
    "train",
    "evaluate",
    "average",
    "compare",
    "shape_bias",
    "RunResult",
    "draw_attention",
    "draw_augmentation",
    "draw_cam",
    "draw_comparison",
    "draw_confusion",
    "draw_curves",
    "draw_features",
    "draw_masked",
    "draw_nearest",
    "draw_predictions",
    "draw_schedule",
    "draw_shape_bias",
    "draw_tokens",
    "validation_predictions",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        try:
            module = importlib.import_module(_MODULE_OF[name])
        except ModuleNotFoundError as error:
            if error.name == "paddle":
                check_paddle()
            raise
        return getattr(module, name)
    raise AttributeError(f"module 'beit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
