"""The demo: one task under three conditions as the released code initialises it, and from a good initialisation."""

from pathlib import Path
from typing import Any

from rich.console import Console

from flossing_lab.reference.config import Config
from flossing_lab.reference.figures import draw_comparison
from flossing_lab.runs.demo import perform

ARMS: dict[str, dict[str, Any]] = {
    "none": {"condition": "none"},
    "good_start": {"condition": "none", "recurrent": "orthogonal", "input_scale": 0.1},
    "before": {"condition": "before"},
    "before_and_during": {"condition": "before_and_during"},
}


def demo(config: Config, out: Path, console: Console) -> Path:
    """Run `config` under the conditions, write the comparison to `out`, and print the results."""
    console.print(
        f"[bold]{config.title}[/], {config.network.units} tanh units, {config.training.epochs} training epochs. Three "
        "conditions begin as the released code does; the good initialisation has orthogonal weights and small inputs. "
        f"Accuracy 0.5 is chance. λ{config.k} is a Lyapunov exponent: the rate, per step, at which backpropagated "
        "gradients shrink (below 0) or grow (above 0).\n",
        highlight=False,
    )
    perform({name: config.with_values(**values) for name, values in ARMS.items()}, out, console, draw_comparison)
    return out / "comparison.png"
