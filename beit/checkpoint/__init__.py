"""Checkpoints of all publishers: recognized, translated, fitted to a model, written.

Publishers are tables of tensor names: publishers/ and key_format, applied by translate with unwrap and qkv.
Metadata are the files beside the weights: metadata, preprocessing, class_names.
`files` and `shards` read and write files of any format (`beit.containers`); `open` adds what stands beside them; `adapt`
fits a state to a model; `load` and `convert` are what users call.
"""
