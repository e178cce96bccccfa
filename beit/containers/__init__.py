"""File formats of weights: bytes to plain arrays and back, for any model.

`recognize` tells them apart by their first bytes; `beit.checkpoint.files` reads and writes any of them.
Pickles: `pickles` runs the opcodes, `pickle_globals` has the classes and functions they may name, `paddle_files` and
`torch_files` what Paddle and PyTorch put in them. `arrays` bounds the memory of all readers.
"""
