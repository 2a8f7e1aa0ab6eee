"""Posteriors of linear models: over sums, rows in memory, and rows in files."""
