"""What is known of weights beside their tensors: preprocessing, class names, and arguments of the model.

It stands in `config.json` and `preprocessor_config.json` of transformers and timm, in the config of a run, and in texts
inside of the weights. `files` reads and writes them; `precedence` says which one holds where they differ.
"""
