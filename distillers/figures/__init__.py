"""Figures that compare networks."""
