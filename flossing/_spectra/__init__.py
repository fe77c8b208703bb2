"""Measurements along an orbit: exponents, covariant vectors, the long-term Jacobian, gradient norms."""
