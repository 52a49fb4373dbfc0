"""Weights of three or four levels: must a slope be annealed, or does a step grow?"""
