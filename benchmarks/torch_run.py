"""The reference run, or part of it, in eager PyTorch: `python -m benchmarks.torch_run --training 60 --flossing 30`.

Temporal XOR with batch 16 and T = 300, flossing over 55 steps. It records what ours records (loss, accuracy and
gradient norms of each epoch) in memory, but writes no checkpoints, measures no other exponents and draws no figures.
Prints one line of JSON: seconds per training and per flossing epoch.
"""

import argparse
import json
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=int, default=3001, help="training epochs")
    parser.add_argument("--flossing", type=int, default=1500, help="flossing epochs")
    parser.add_argument("--delay", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--units", type=int, default=80)
    parser.add_argument("--k", type=int, default=75)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--window", type=int, default=55)
    arguments = parser.parse_args()

    import torch

    from benchmarks import peers_torch as peer
    from benchmarks.epochs import default_transient
    from benchmarks.starts import flossing_start, training_start

    peer.set_threads(arguments.threads)
    numbers = training_start(arguments.units, arguments.batch)
    parameters = peer.as_parameters(numbers, numbers)
    basis = torch.from_numpy(flossing_start(arguments.units, arguments.k)["basis"])
    trainer = peer.Trainer(parameters, steps=arguments.steps, delay=arguments.delay)
    flosser = peer.Flosser(
        parameters,
        lambda: torch.tanh(parameters["x0"][0]).detach(),
        basis,
        transient=default_transient(arguments.window),
        window=arguments.window,
    )
    records, seconds = {}, {}
    for kind, epoch, epochs in (
        ("flossing", flosser, arguments.flossing),
        ("training", trainer, arguments.training),
    ):
        begin = time.perf_counter()
        records[kind] = [epoch() for _ in range(epochs)]
        seconds[kind] = (time.perf_counter() - begin) / max(epochs, 1)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
