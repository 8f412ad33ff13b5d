"""Reports that compare finished runs."""

from distillers.report.runs import load_runs

__all__ = ["load_runs"]
