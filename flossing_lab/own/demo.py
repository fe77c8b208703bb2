"""`flossing demo signed`: a network of excitatory and inhibitory units, for which no good initialisation is known."""

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from flossing_lab.own.config import OwnConfig
from flossing_lab.runs.demo import LEARNED, perform
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.plotting import (
    COLOURS,
    DARK,
    LABELS,
    LIGHT_GREY,
    as_exponents,
    draw_spectrum,
    remove_spines,
    running_mean,
)

CONDITIONS = ("none", "before")


def signed_config(delay: int, epochs: int, seed: int) -> OwnConfig:
    """The task and the network of the demo."""
    task = {"task": "TemporalXOR", "task_options": json.dumps({"delay": delay, "steps": 5 * delay})}
    return OwnConfig().with_values(**task, cell="dale", epochs=epochs, seed=seed)


def signed_demo(config: OwnConfig, out: Path, console: Console) -> Path:
    """Run `config` without and with flossing, write the comparison to `out`, and print the results."""
    console.print(
        f"[bold]{config.title}[/]: {config.network.units} units, each excitatory or inhibitory, a fifth of all "
        f"connections, {config.training.epochs} training epochs. Such a network has no orthogonal start. Accuracy 0.5 "
        f"is chance. λ{config.k} is a Lyapunov exponent: the rate, per step, at which backpropagated gradients shrink "
        "(below 0) or grow (above 0).\n",
        highlight=False,
    )
    delay = config.task_arguments["delay"]
    title = f"Temporal XOR at lags {delay} and {2 * delay}: {config.network.units} excitatory and inhibitory units"
    arms = {name: config.with_values(condition=name) for name in CONDITIONS}
    perform(arms, out, console, lambda runs: draw(runs, title))
    return out / "comparison.png"


def draw(runs: Mapping[str, RunDirectory], title: str) -> Figure:
    """Accuracy and spectra of both networks."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    accuracy, spectra = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=12, color=DARK)
    for name, run in runs.items():
        training, colour = run.metrics("training"), COLOURS[name]
        accuracy.plot(*running_mean(training["epoch"], training["accuracy"]), color=colour, lw=1.8, label=LABELS[name])
        found = run.info["spectra"]
        if name == "none":
            draw_spectrum(spectra, as_exponents(found["start"]), color=LIGHT_GREY, label="at the start")
        else:
            flossed = as_exponents(found["after_preflossing"])
            draw_spectrum(spectra, flossed, color=colour, ls=":", label="after flossing")
        draw_spectrum(spectra, as_exponents(found["end"]), color=colour, label=f"end: {LABELS[name]}")
    for level in (0.5, LEARNED):
        accuracy.axhline(level, color=LIGHT_GREY, lw=0.8, zorder=0)
    accuracy.set(xlabel="training epoch", ylabel="accuracy", ylim=(0.45, 1.02))
    accuracy.set_title("Accuracy on fresh sequences", loc="left", fontsize=10)
    accuracy.legend(frameon=False, fontsize=8, loc="center right")
    spectra.legend(frameon=False, fontsize=8)
    spectra.set_title("Lyapunov spectrum", loc="left", fontsize=10)
    for axes in (accuracy, spectra):
        remove_spines(axes)
    return figure
