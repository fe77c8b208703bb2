"""The own experiment: any task and any cell, also those of your own files."""
