"""Priors over relations between all tasks."""
