"""Ways to explore any density; a sampler knows no model."""
