"""What is known of a model without its tensors: sizes, preprocessing, class names, arguments of its training.

It stands in `config.json` and `preprocessor_config.json` of transformers and timm, in the config of a run, in texts inside
of the weights, or follows from the publisher. `files` reads what stands beside weights; `precedence` and `agreement` say
what holds where two statements differ; `info` puts all together; `folders` writes it for transformers and timm.
"""
