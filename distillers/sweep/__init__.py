"""Grids of runs: expansion, execution, and the search for a student."""
