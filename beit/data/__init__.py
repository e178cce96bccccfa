"""Lists of images, transforms, samplers and the loader. Everything a data worker runs does without Paddle;
only `mixup` and `batch_transforms` import it.
"""
