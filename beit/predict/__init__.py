"""Using a model on pictures: prediction, features, class maps, hidden patches, attention maps, the image processor."""
