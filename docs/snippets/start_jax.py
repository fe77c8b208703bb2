import jax

import flossing as fl

# or a cell of Equinox or Flax
cell = fl.cells.VanillaRNN(64, key=jax.random.key(0))
inputs = jax.random.normal(jax.random.key(1), (200, 1))

print(fl.lyapunov_spectrum(cell, inputs, k=16))
cell, history = fl.floss(cell, inputs, k=16, window=60, epochs=100)
print(history)  # continue with your own training
