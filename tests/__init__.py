import os

# The threads of BLAS wait for each other in loops, at the cost of the other workers
# (measured, one file of small SVDs: 30 seconds of CPU, and 4 with one thread). Set here
# since the plugin `tests.doctest_names` is imported first: others load NumPy, which
# reads it once.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
