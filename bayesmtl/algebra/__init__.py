"""The Gaussian algebra of W = A Z + E: statistics, collapsed density, exact conditional draws."""
