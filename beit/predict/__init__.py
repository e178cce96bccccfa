"""Prediction: class names, features, class maps, masked patches, attention maps, figures of runs, image processors."""
