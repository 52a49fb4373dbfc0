"""Which methods find the structure of an optimum that is known exactly."""
