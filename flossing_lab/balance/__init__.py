"""The second experiment: networks of rectified units that balance themselves while they learn to track signals."""
