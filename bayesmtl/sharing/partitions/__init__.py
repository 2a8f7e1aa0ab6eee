"""Priors over partitions of the tasks."""
