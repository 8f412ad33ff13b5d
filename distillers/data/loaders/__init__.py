"""Loaders that make batches."""
