"""Many runs: their specification, the workers that perform them, and the dataset of their results."""
