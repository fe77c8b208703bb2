"""Linear algebra of tangents: QR, graded matrices, norms, and products in full precision."""
