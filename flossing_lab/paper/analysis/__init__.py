"""What figures share: curves, measures over networks, verdicts, drawing, and merging of stored data."""
