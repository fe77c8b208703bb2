"""A demo: the same task under several conditions, with a table, one sentence that says what came out, and a picture."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.console import Display
from flossing_lab.runs.directory import RunDirectory
from flossing_lab.runs.files import write_json
from flossing_lab.runs.plotting import LABELS, as_exponents, first_reaching, save_figure
from flossing_lab.runs.run import run

LAST = 100
"""Number of final epochs, each on a fresh batch, whose mean is the final accuracy."""

LEARNED = 0.95
"""The task is learned once the mean accuracy of 25 epochs reaches this."""


def perform(
    arms: Mapping[str, RunConfig], out: Path, console: Console, draw: Callable[[Mapping[str, RunDirectory]], Figure]
) -> dict[str, Any]:
    """Run each condition, write its directory, the summary and the picture to `out`, print the results; the summary."""
    # An interrupted demo continues; a complete one starts again.
    complete = (out / "summary.json").exists()
    (out / "summary.json").unlink(missing_ok=True)
    runs: dict[str, RunDirectory] = {}
    width = max(len(LABELS[name]) for name in arms)
    with Display(console) as display:
        for name, wanted in arms.items():
            display.start(LABELS[name].ljust(width))
            directory = RunDirectory(out / name)
            other = directory.exists and directory.config.digest != wanted.digest
            runs[name] = run(wanted, directory.path, overwrite=complete or other, on_progress=display.update)
    summary = summarise(runs)
    write_json(out / "summary.json", summary)
    plot = out / "comparison.png"
    save_figure(draw(runs), plot)
    console.print(_table(summary))
    console.print(f"\n{sentence(summary)}\n", highlight=False)
    console.print(f"plot      {plot}\nnumbers   {out / 'summary.json'}", highlight=False)
    console.print(f"view details with   flossing report {out}", highlight=False)
    return summary


def summarise(runs: Mapping[str, RunDirectory]) -> dict[str, Any]:
    """The numbers of the demo, as summary.json holds them."""
    config = next(iter(runs.values())).config
    conditions = {}
    for name, directory in runs.items():
        info, training = directory.info, directory.metrics("training")
        learned = first_reaching(training["epoch"], training["accuracy"], LEARNED)
        conditions[name] = {
            "final_accuracy": float(training["accuracy"][-LAST:].mean()),
            "learned_after": None if learned is None else int(learned),
            "exponents": info["spectra"]["end"],
            "exponents_at_start": info["spectra"]["start"],
            "exponents_after_preflossing": info["spectra"].get("after_preflossing"),
            "seconds": info["seconds"],
        }
    return {
        "task": config.title,
        "units": config.network.units,
        "k": config.k,
        "epochs": config.training.epochs,
        "final_accuracy_is": f"mean over the last {LAST} epochs, each on a fresh batch before the update",
        "learned_after_is": f"the first epoch at which the mean of 25 reaches {LEARNED}",
        "exponents_are": f"per step, natural logarithm, driven by {config.driven_by}, at the end of training",
        "conditions": conditions,
    }


def sentence(summary: Mapping[str, Any]) -> str:
    """What came out, in one sentence."""
    after = {name: row["learned_after"] for name, row in summary["conditions"].items()}
    learned = "; ".join(f"{LABELS[name]} ({epoch} epochs)" for name, epoch in after.items() if epoch is not None)
    never = "; ".join(LABELS[name] for name, epoch in after.items() if epoch is None)
    if not learned:
        return f"No condition reaches an accuracy of {LEARNED} within {summary['epochs']} epochs."
    return f"Learned, to an accuracy of {LEARNED}: {learned}." + (f" Not learned: {never}." if never else "")


def _table(summary: Mapping[str, Any]) -> Table:
    last = f"λ{summary['k']}"
    title = f"After {summary['epochs']} epochs"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("condition", max_width=26)  # so that the table fits 80 columns
    for name in ("accuracy", f"{LEARNED} at", f"{last} start", "flossed", "end", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in summary["conditions"].items():
        start, flossed, end = row["exponents_at_start"], row["exponents_after_preflossing"], row["exponents"]
        exponents = (start[-1], flossed and flossed[-1], end[-1])
        shown = ("-" if value is None else f"{as_exponents([value])[0]:+.2f}" for value in exponents)
        epoch = "never" if row["learned_after"] is None else str(row["learned_after"])
        table.add_row(LABELS[name], f"{row['final_accuracy']:.3f}", epoch, *shown, f"{row['seconds']:.0f} s")
    return table
