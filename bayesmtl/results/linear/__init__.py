"""Fits of linear models."""
