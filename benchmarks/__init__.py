"""What the library costs, one script per question.

- ``step``: an optimizer step, beside Optax's and PyTorch's and the memory's bandwidth.
- ``authors``: the same, beside the authors' PyTorch code.
- ``metric``, ``nuclear``, ``masks``: error and time of the three hard proxes.
- ``compile``: seconds and kernels of the compiled step.
- ``scaling``: a step's time against parameters, leaves and groups.
- ``training``: steps and epochs end to end, and where their time goes.

``python -m benchmarks all`` runs them in turn; ``report`` and ``readme`` sum up.
"""
