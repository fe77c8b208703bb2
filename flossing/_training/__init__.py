"""Gradient flossing, and the loop that trains with blocks of flossing."""
