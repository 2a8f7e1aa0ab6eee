"""Fits of functions."""
