"""Slow, independent minimisers of every prox objective, to test the fast ones with."""

from ._prox import ORACLES, Oracle

__all__ = ["ORACLES", "Oracle"]
