"""The engine "laplace": importance sampling around the modes."""
