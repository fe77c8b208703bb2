"""How programs run: compiled functions, the compiled loop of epochs, threads and memory."""
