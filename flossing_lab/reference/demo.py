"""The demo: one network under three conditions, on a delay that it does not learn from this start without flossing."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flossing_lab.reference.config import Condition, Config
from flossing_lab.reference.figures import draw_comparison
from flossing_lab.runs.console import Display
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import write_json
from flossing_lab.runs.plotting import LABELS, as_exponents, save_figure
from flossing_lab.runs.run import run

CONDITIONS: tuple[Condition, ...] = ("none", "before", "before_and_during")
LAST = 100
"""Number of final epochs, each on a fresh batch, whose mean is the final accuracy."""


def demo(config: Config, out: Path, console: Console) -> Path:
    """Run `config` under the three conditions, write the comparison to `out`, and print the results."""
    console.print(
        f"[bold]{config.title}[/], {config.network.units} tanh units, "
        f"{config.training.epochs} training epochs, three conditions from the same start. "
        f"Accuracy 0.5 is chance. λ1 to λ{config.k} are Lyapunov exponents: the rate, per step, at which "
        "backpropagated gradients shrink (below 0) or grow (above 0).\n",
        highlight=False,
    )
    # An interrupted demo continues; a complete one starts again.
    complete = (out / "summary.json").exists()
    (out / "summary.json").unlink(missing_ok=True)
    runs: dict[str, RunDirectory] = {}
    with Display(console) as display:
        for condition in CONDITIONS:
            display.start(f"{LABELS[condition]:<26}")
            wanted, directory = config.with_values(condition=condition), RunDirectory(out / condition)
            other = directory.exists and directory.config.digest != wanted.digest
            runs[condition] = run(wanted, directory.path, overwrite=complete or other, on_progress=display.update)
    summary = summarise(runs, config)
    write_json(out / "summary.json", summary)
    plot = out / "comparison.png"
    save_figure(draw_comparison(runs), plot)
    console.print(_table(summary))
    console.print(f"plot      {plot}\nnumbers   {out / 'summary.json'}", highlight=False)
    console.print(f"view details with   flossing report {out}", highlight=False)
    return plot


def summarise(runs: dict[str, RunDirectory], config: Config) -> dict[str, Any]:
    """The numbers of the comparison, as summary.json holds them."""
    conditions = {}
    for condition, directory in runs.items():
        info, accuracy = directory.info, directory.metrics("training")["accuracy"]
        conditions[condition] = {
            "final_accuracy": float(accuracy[-LAST:].mean()),
            "exponents": info["spectra"]["end"],
            "exponents_at_start": info["spectra"]["start"],
            "exponents_after_preflossing": info["spectra"].get("after_preflossing"),
            "seconds": info["seconds"],
        }
    return {
        "task": config.task.task,
        "delay": config.task.delay,
        "units": config.network.units,
        "k": config.k,
        "epochs": config.training.epochs,
        "final_accuracy_is": f"mean over the last {LAST} epochs, each on a fresh batch before the update",
        "exponents_are": "per step, natural logarithm, driven by random bits, at the end of training",
        "conditions": conditions,
    }


def _table(summary: dict[str, Any]) -> Table:
    last = f"λ{summary['k']}"
    title = f"Delay {summary['delay']}, after {summary['epochs']} epochs"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("condition", no_wrap=True)
    for name in ("accuracy", "λ1 end", f"{last} start", "flossed", "end", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for condition, row in summary["conditions"].items():
        start, flossed, end = row["exponents_at_start"], row["exponents_after_preflossing"], row["exponents"]
        exponents = (end[0], start[-1], flossed and flossed[-1], end[-1])
        shown = ("-" if value is None else f"{as_exponents([value])[0]:+.2f}" for value in exponents)
        table.add_row(LABELS[condition], f"{row['final_accuracy']:.3f}", *shown, f"{row['seconds']:.0f} s")
    return table
