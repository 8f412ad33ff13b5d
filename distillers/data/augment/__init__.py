"""Augmentation of batches of images by tensor operations, on the device where they are."""
