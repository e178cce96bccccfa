"""Checkpoints of all publishers: recognized, translated, fitted to a model, written. Paddle is not needed.

`files` and `shards` read and write files of any format (`beit.containers`). `unwrap` finds the states in a file, and
`recognize` their publisher by the tables of tensor names in `publishers`. `translate` gives the canonical form, by `rename`
rules (`key_format`), `qkv` and `shapes`, with the facts of `beit.metadata`. `open` does all of this for a
path; `adapt` edits a state for a model and `fit` checks it; `convert` writes the form of another publisher.
"""
