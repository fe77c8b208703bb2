"""Renders the text, tables and data of the report into one HTML file."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flossing_lab.report import summary
from flossing_lab.report.curves import final_accuracy, learning_curves
from flossing_lab.report.details import NOT_KEPT, choose_runs, show_in_detail
from flossing_lab.report.runs import LAST, Run, group_runs, name_runs, read_runs
from flossing_lab.runs.files import write_atomically
from flossing_lab.sweeps.collection import read_sweep

_HERE = Path(__file__).parent


def write_report(paths: Sequence[Path | str], out: Path) -> Path:
    """Write the report of all runs in `paths` to the self-contained HTML file `out`.

    A path is a run directory, a sweep directory, or a folder that contains runs at any depth. The report lists runs
    that cannot be read. Raises ValueError if no run can be read, or if the extra `[lab]` is missing.
    """
    if out.is_dir() or any(parent.is_file() for parent in out.parents):
        found = "a directory" if out.is_dir() else "in a file, not in a directory"
        raise ValueError(f"out must be an HTML file, got {str(out)!r}, which is {found}")
    environment, plotly = _tools()
    content = collect(*read_runs(paths), name=_name_of_sweep(paths))
    scripts = [plotly, (_HERE / "page.js").read_text("utf-8")]
    page = environment.get_template("page.html").render(
        content, css=(_HERE / "page.css").read_text("utf-8"), scripts=scripts, hashes=[_hash(text) for text in scripts]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())
    return out


def collect(runs: Sequence[Run], damaged: Sequence[tuple[str, str]], name: str | None = None) -> dict[str, Any]:
    """The content of the page as plain values; `data` holds the data of its figures. `name` is that of a sweep."""
    axes, groups = group_runs(runs)
    detailed = choose_runs(groups)
    header, rows = summary.tabulate(list(axes), groups)
    details = [show_in_detail(run, len(detailed)) for run in detailed]
    troubles, more_troubles = summary.list_problems(runs, damaged)
    return {
        **summary.describe(runs, name),
        "troubles": troubles,
        "more_troubles": more_troubles,
        "header": header,
        "rows": rows,
        "last": LAST,
        "configuration": summary.tabulate_configuration(runs),
        "versions": summary.tabulate_versions(runs),
        "runs": len(runs),
        "detailed": name_runs(detailed),
        "panels": {name for panels in details for name, panel in panels.items() if panel not in NOT_KEPT},
        "data": {
            "final": final_accuracy(axes, groups),
            "curves": learning_curves(axes, groups),
            "details": details,
        },
    }


def _name_of_sweep(paths: Sequence[Path | str]) -> str | None:
    """The name of the sweep, if the report is of one sweep."""
    (path, *others) = map(Path, paths)
    return None if others or not (path / "sweep.json").is_file() else str(read_sweep(path).get("name", path.name))


def _tools() -> tuple[Any, str]:
    # Imported only here: training needs neither of them.
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ValueError("flossing report needs the extra [lab]: pip install 'flossing[lab]'") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    # NaN is not valid JSON. Fail on one here rather than write a page that shows nothing.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment, get_plotlyjs()


def _hash(script: str) -> str:
    # The page's content security policy lists its scripts by hash, so that no injected script can run.
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
