"""Loaders of batches, from memory or from files."""
