"""Reproduces the paper figure by figure: runs what each figure needs, draws it and judges its claims."""
