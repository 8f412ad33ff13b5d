"""Figures that compare the predictions and features of networks."""
