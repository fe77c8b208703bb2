"""One run: its configuration, directory, checkpoints and progress, for any experiment of the registry."""
