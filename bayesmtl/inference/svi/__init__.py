"""The engine "svi": stochastic variational inference by Pyro."""
