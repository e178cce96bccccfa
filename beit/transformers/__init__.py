"""The interface of transformers over this package's models: `from beit.transformers import …` for `from transformers import …`.

What PyTorch tensors are there are Paddle tensors here. The Auto classes are those of BEiT, the only architecture.
"""

from beit.transformers.backbone import BeitBackbone
from beit.transformers.classification import BeitForImageClassification
from beit.transformers.configuration import BeitConfig
from beit.transformers.encoder import BeitModel
from beit.transformers.image_processor import BeitImageProcessor
from beit.transformers.masked import BeitForMaskedImageModeling
from beit.transformers.pipelines import pipeline
from beit.transformers.segmentation import BeitForSemanticSegmentation

BeitFeatureExtractor = BeitImageProcessor  # its name before transformers 4.25
AutoBackbone = BeitBackbone
AutoConfig = BeitConfig
AutoImageProcessor = BeitImageProcessor
AutoModel = BeitModel
AutoModelForImageClassification = BeitForImageClassification
AutoModelForSemanticSegmentation = BeitForSemanticSegmentation

__all__ = [
    "AutoBackbone",
    "AutoConfig",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForSemanticSegmentation",
    "BeitBackbone",
    "BeitConfig",
    "BeitFeatureExtractor",
    "BeitForImageClassification",
    "BeitForMaskedImageModeling",
    "BeitForSemanticSegmentation",
    "BeitImageProcessor",
    "BeitModel",
    "pipeline",
]
