"""A dense and five sparse trainings of a small network, as fronts: ``make demo``."""
