"""Algorithms that know no regularizer: roots, selections and decompositions."""
