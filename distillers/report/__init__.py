"""Finished runs: read, grouped, compared, written."""
