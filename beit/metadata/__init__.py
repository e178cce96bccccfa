"""Facts on a model beside its tensors: sizes, preprocessing, class names, arguments of its training.

They come from `config.json` and `preprocessor_config.json` of transformers and timm, from the config of a run, from
metadata inside of the weights, or from the publisher. `files` reads the files beside weights; `precedence` and `agreement`
decide where two of them differ; `info` collects everything; `folders` writes it for transformers and timm.
"""
