"""The engine "nuts": Pyro's sampler over hyperparameters and weights."""
