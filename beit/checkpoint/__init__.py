"""Checkpoints of all publishers: recognized, translated, fitted to a model, written.

Publishers are tables of tensor names: publishers/ and key_format, applied by translate with unwrap and qkv.
What the files beside the weights say is `beit.metadata`; `preprocessing` adds what is known of the publishers.
`files` and `shards` read and write files of any format (`beit.containers`); `open` adds what stands beside them; `adapt`
edits a state for a model and `fit` checks it; `convert` writes the form of another publisher. Paddle is not needed.
"""
