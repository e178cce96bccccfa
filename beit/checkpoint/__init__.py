"""Reading, adapting and writing checkpoints.

Containers turn bytes into arrays: files, containers, pickles, pickle_globals, pickle_files, torch_files, safetensors_files.
Publishers are tables of tensor names: publishers/ and key_format, applied by translate with unwrap and qkv.
Metadata are the files beside the weights: metadata, preprocessing, class_names.
`open` combines these three; `adapt` fits a state to a model; `load` and `convert` are what users call.
"""
