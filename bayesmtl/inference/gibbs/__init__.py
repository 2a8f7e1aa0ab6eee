"""The engine "gibbs" of rows that auxiliary variables make Gaussian."""
