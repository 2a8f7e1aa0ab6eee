"""The seeds of tests whose outcome depends on random numbers: all of them move with one variable.

`BAYESMTL_TEST_SEED=7 python -m pytest ...` runs such tests with other random numbers. Their outcome must not
depend on it, except with the false-alarm probability that each states. `make test-seeds` counts failures.

What moves is what the claim is about. A sampler that must agree with an exact answer moves, and the data of
that answer stay; where the claim is that something is found in data of a kind, the data move.
"""

import os

# Far apart, so that "seed + 1" within a test never meets the same test of another move.
_STRIDE = 1_000_003


def seeded(number: int) -> int:
    """The seed `number` of a test, moved by `BAYESMTL_TEST_SEED` (default 0: not moved)."""
    return number + _STRIDE * int(os.environ.get("BAYESMTL_TEST_SEED", "0"))
