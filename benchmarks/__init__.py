"""Speed and accuracy beside peers, one command each: python -m benchmarks.NAME, or benchmarks.run for all."""

import os

# before torch and jax are imported: every program here runs on one thread
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
