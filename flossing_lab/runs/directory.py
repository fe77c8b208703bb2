"""The run directory: its files, and how to write them so that a killed run leaves nothing half-written.

    run.json           configuration, versions, device, status, spectra
    metrics/*.npz      one file per chunk of epochs, `training-00000001.npz` from epoch 1 on; one per test
    snapshots/*.npz    parameters along the way, `00000100-00000500.npz` after 100 training and 500 flossing epochs
    checkpoints/*.eqx  the newest states from which the run can continue
    parameters.npz     the parameters after the last chunk, by name
    horizons.npz       singular values of the long-term Jacobian against the horizon
    run.png            the plot
    film.gif           the film, if the experiment has one

Arrays are plain NPZ, read without pickle. No file name is taken from the content of a file.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.files import read_arrays, read_json, remove_temporary_files, write_arrays, write_json
from flossing_lab.runs.locks import check_directory, locked
from flossing_lab.runs.registry import read_config

FORMAT = 1
"""Version of the layout."""

_FOLDERS = {"metrics": "*.npz", "snapshots": "*.npz", "checkpoints": "*.eqx"}
_FILES = ("parameters.npz", "horizons.npz", "run.png", "film.gif")
_KIND = ("run", "run.json", (*_FOLDERS, *_FILES))
"""How `locks` knows a directory of ours."""


class RunDirectory:
    """One run on disk. The constructor reads nothing; each access reads its file."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        path = self.path / "run.json"
        if not path.is_file():
            raise ValueError(f"run directory must hold run.json, got {str(self.path)!r}")
        return read_json(path, FORMAT)

    @property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        info = self.info
        try:
            return read_config(info.get("config"))
        except ValueError as error:
            raise ValueError(f"{self.path / 'run.json'}: {error}") from None

    @property
    def exists(self) -> bool:
        """Whether this directory holds a run."""
        return (self.path / "run.json").is_file()

    def has_finished(self, config: RunConfig) -> bool:
        """Whether this holds a finished run of `config`."""
        return self.exists and self.info["status"] == "finished" and self.config.digest == config.digest

    def metrics(self, kind: str, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """The metrics of one kind, `"training"`, `"flossing"` or `"test"`: all, or those in `names` that exist.

        One row per epoch or test. Empty if there are none yet.
        """
        return joined(self.chunks(kind, names))

    def chunks(self, kind: str, names: Collection[str] | None = None) -> list[dict[str, np.ndarray]]:
        """The same metrics, each chunk of epochs apart."""
        chunks = [_read_if_there(path, names) for path in sorted((self.path / "metrics").glob(f"{kind}-*.npz"))]
        return [chunk for chunk in chunks if chunk]

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters after the last chunk, by name (`network.J`, `x0`, ...)."""
        path = self.path / "parameters.npz"
        if not path.is_file():
            raise ValueError(f"run directory must hold parameters.npz, got {str(self.path)!r}, which has none yet")
        return read_arrays(path)

    @property
    def horizons(self) -> dict[str, np.ndarray]:
        """`horizon` (H,), and the log singular values of the long-term Jacobian (H, N) at each stage, named like the
        spectra in run.json: `start`, `after_preflossing`, `end`. Empty if there are none yet."""
        return _read_if_there(self.path / "horizons.npz")

    @property
    def snapshots(self) -> dict[tuple[int, int], Path]:
        """The snapshot files by the training and flossing epochs done, in chronological order."""
        found = {}
        for path in sorted((self.path / "snapshots").glob("*.npz")):
            training, _, flossing = path.stem.partition("-")
            if training.isdecimal() and flossing.isdecimal():
                found[int(training), int(flossing)] = path
        return found

    def check(self):
        """Raise ValueError unless this is a directory of a run, an empty one, or a path where one can be made."""
        check_directory(self.path, *_KIND)

    @contextmanager
    def opened(self, *, overwrite: bool = False) -> Iterator[None]:
        """Lock this directory for one process. Create it if needed; with `overwrite`, remove an earlier run first.

        Raises ValueError if the directory cannot be created, holds files that no run wrote, or is in use.
        """
        with locked(self.path, *_KIND):
            if overwrite:
                self._remove_run()
            for folder in _FOLDERS:
                if (self.path / folder).is_symlink():
                    raise ValueError(f"{self.path / folder} must be a folder of its own, got a link")
                (self.path / folder).mkdir(exist_ok=True)
                remove_temporary_files(self.path / folder)
            yield

    def write_info(self, info: Mapping[str, Any]):
        """Write run.json."""
        write_json(self.path / "run.json", {"format": FORMAT, **info})

    def write_metrics(self, kind: str, first: int, arrays: Mapping[str, Any]):
        """Write one chunk of metrics that begins with epoch `first`."""
        write_arrays(self.path / "metrics" / f"{kind}-{first:08d}.npz", arrays)

    def write_parameters(self, arrays: Mapping[str, Any]):
        """Write the parameters."""
        write_arrays(self.path / "parameters.npz", arrays)

    def write_horizons(self, arrays: Mapping[str, Any]):
        """Write the singular values of the long-term Jacobian."""
        write_arrays(self.path / "horizons.npz", arrays)

    def write_snapshot(self, epoch: int, flossing_epoch: int, arrays: Mapping[str, Any]):
        """Write a snapshot of the parameters."""
        write_arrays(self.path / "snapshots" / f"{epoch:08d}-{flossing_epoch:08d}.npz", arrays)

    def truncate_after(self, epoch: int, flossing_epoch: int):
        """Remove everything after these epochs; a run that continues from there writes it again."""
        done = {"training": epoch, "flossing": flossing_epoch, "test": epoch}
        for kind, last in done.items():
            for path in (self.path / "metrics").glob(f"{kind}-*.npz"):
                if int(path.stem.removeprefix(f"{kind}-")) > last:
                    path.unlink()
        for (training, flossing), path in self.snapshots.items():
            if training > epoch or flossing > flossing_epoch:
                path.unlink()

    def _remove_run(self):
        # Remove only files that a run writes, and run.json first: without it, the directory no longer counts as a run.
        (self.path / "run.json").unlink(missing_ok=True)
        for folder, pattern in _FOLDERS.items():
            if not (self.path / folder).is_symlink():
                for path in (self.path / folder).glob(pattern):
                    path.unlink(missing_ok=True)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)


def joined(chunks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of all chunks, one after the other."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in (chunks[0] if chunks else {})}


def _read_if_there(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    # A run that continues from an earlier checkpoint may remove a chunk after we list it and before we read it.
    try:
        return read_arrays(path, names)
    except FileNotFoundError:
        return {}
