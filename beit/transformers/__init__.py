"""The interface of transformers over this package's models: `from beit.transformers import …` for `from transformers import …`.

What PyTorch tensors are there are Paddle tensors here.
"""

from beit.transformers.backbone import BeitBackbone
from beit.transformers.classification import BeitForImageClassification
from beit.transformers.configuration import BeitConfig
from beit.transformers.encoder import BeitModel
from beit.transformers.masked import BeitForMaskedImageModeling
from beit.transformers.segmentation import BeitForSemanticSegmentation

__all__ = [
    "BeitBackbone",
    "BeitConfig",
    "BeitForImageClassification",
    "BeitForMaskedImageModeling",
    "BeitForSemanticSegmentation",
    "BeitModel",
]
