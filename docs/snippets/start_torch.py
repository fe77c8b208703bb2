import torch

import flossing.pytorch as flt

# or nn.RNN, nn.LSTM, your own cell(input, state)
network = torch.nn.GRU(1, 64)
bits = torch.randint(0, 2, (200, 1)).float()

print(flt.lyapunov_spectrum(network, bits, k=16))
flt.floss(network, bits, k=16, window=60, epochs=100)  # in place
print(flt.lyapunov_spectrum(network, bits, k=16))
