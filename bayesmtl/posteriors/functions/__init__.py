"""Posteriors of functions: all rows at once, on a grid, through inducing inputs."""
