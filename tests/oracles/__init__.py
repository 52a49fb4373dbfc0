"""Slow, independent minimisers of every prox objective, to test the fast ones with."""
