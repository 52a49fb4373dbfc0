"""One small model in every library that people train with, and in every place.

Each script trains it the way that library's users do, and prints what became of the
inputs that do not matter. From the root of the repository:

    python -m examples.integrations.nnx_optimizer
"""
