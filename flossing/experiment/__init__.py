"""The reference experiment of the paper: configuration, runs and their directories, pictures, the command line."""
