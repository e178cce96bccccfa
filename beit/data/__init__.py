"""Image lists, transforms, samplers and the data loader.

Data workers import no Paddle: of these modules only `mixup` and `batch_transforms` do.
"""
