"""A model met with data: the density of its hyperparameters, with all else integrated out."""
