"""Engines of partitions of the tasks: Gibbs moves, and bounds."""
