"""The laboratory of `flossing`: its command line, runs, sweeps, reports, the paper and the comparison."""
