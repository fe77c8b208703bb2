"""Train recurrent networks over long horizons by controlling their Lyapunov exponents.

Names resolve when first used (PEP 562), so that importing this package, and thus `flossing --help`, does not import
JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flossing import cells as cells, flows as flows, tasks as tasks
    from flossing._linalg.qr import orthonormalise as orthonormalise
    from flossing._spectra.covariant import (
        CovariantVectors as CovariantVectors,
        angle_between_subspaces as angle_between_subspaces,
        angles_between as angles_between,
        covariant_vectors as covariant_vectors,
    )
    from flossing._spectra.feedback import Feedback as Feedback, error_feedback as error_feedback
    from flossing._spectra.jacobian import (
        LongTermJacobian as LongTermJacobian,
        apply_long_term as apply_long_term,
        long_term_jacobian as long_term_jacobian,
    )
    from flossing._spectra.lyapunov import (
        Spectra as Spectra,
        Spectrum as Spectrum,
        lyapunov_spectra as lyapunov_spectra,
        lyapunov_spectrum as lyapunov_spectrum,
    )
    from flossing._spectra.statistics import (
        Uncertainty as Uncertainty,
        effective_rank as effective_rank,
        entropy_rate as entropy_rate,
        kaplan_yorke_dimension as kaplan_yorke_dimension,
        participation_ratio as participation_ratio,
    )
    from flossing._training.floss import FlossingHistory as FlossingHistory, floss as floss
    from flossing._training.flossing import (
        Flossing as Flossing,
        FlossingRecord as FlossingRecord,
        FlossingState as FlossingState,
    )
    from flossing._training.loss import flossing_loss as flossing_loss
    from flossing._training.train import (
        FlossingTerm as FlossingTerm,
        Progress as Progress,
        TrainingState as TrainingState,
        clip_each_array as clip_each_array,
        start_training as start_training,
        train as train,
    )
    from flossing.schedules import (
        Schedule as Schedule,
        floss_adaptively as floss_adaptively,
        floss_before as floss_before,
        floss_never as floss_never,
        floss_periodically as floss_periodically,
        join_schedules as join_schedules,
    )

__version__ = "0.1.0"

_HOMES = {
    "_angles": ("angle_between_subspaces", "angles_between"),
    "_batch": ("Spectra", "lyapunov_spectra"),
    "_covariant": ("CovariantVectors", "covariant_vectors"),
    "_feedback": ("Feedback", "error_feedback"),
    "_floss": ("Flossing", "FlossingHistory", "FlossingRecord", "FlossingState", "floss"),
    "_jacobian": ("LongTermJacobian", "apply_long_term", "long_term_jacobian"),
    "_loss": ("flossing_loss",),
    "_lyapunov": ("Spectrum", "lyapunov_spectrum"),
    "_measures": ("effective_rank", "entropy_rate", "kaplan_yorke_dimension", "participation_ratio"),
    "_orthonormal": ("orthonormalise",),
    "_schedule": (
        "Schedule",
        "floss_adaptively",
        "floss_before",
        "floss_never",
        "floss_periodically",
        "join_schedules",
    ),
    "_train": ("FlossingTerm", "Progress", "TrainingState", "clip_each_array", "start_training", "train"),
    "_uncertainty": ("Uncertainty",),
    "cells": ("cells",),
    "flows": ("flows",),
    "tasks": ("tasks",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'flossing' has no attribute {name!r}")
    module = importlib.import_module(f"flossing.{home}")
    value = module if name == home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
