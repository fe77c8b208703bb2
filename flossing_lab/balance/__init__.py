"""The balance experiment: networks of rectified units that balance themselves while they learn to track signals."""
