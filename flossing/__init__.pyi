from . import (
    cells as cells,
    flows as flows,
    losses as losses,
    plots as plots,
    schedules as schedules,
    tasks as tasks,
)
from ._diagnose import diagnose as diagnose
from ._diagnosis import Diagnosis as Diagnosis
from ._estimate import Estimate as Estimate
from ._flosser import Flosser as Flosser, FlosserState as FlosserState
from ._linalg.qr import orthonormalise as orthonormalise
from ._spectra.calibration import Calibration as Calibration, calibrate as calibrate
from ._spectra.covariant import (
    CovariantVectors as CovariantVectors,
    angle_between_subspaces as angle_between_subspaces,
    angles_between as angles_between,
    covariant_vectors as covariant_vectors,
)
from ._spectra.gates import gate_values as gate_values
from ._spectra.gradient_norms import GradientNorms as GradientNorms, backpropagated_norms as backpropagated_norms
from ._spectra.gradient_reach import gradient_reach as gradient_reach
from ._spectra.jacobian import (
    LongTermJacobian as LongTermJacobian,
    long_term_jacobian as long_term_jacobian,
    long_term_jvp as long_term_jvp,
    long_term_vjp as long_term_vjp,
)
from ._spectra.linear_memory import MemoryFunction as MemoryFunction
from ._spectra.lyapunov import lyapunov_spectrum as lyapunov_spectrum
from ._spectra.memory import memory_function as memory_function
from ._spectra.newton import NewtonIterations as NewtonIterations, newton_iterations as newton_iterations
from ._spectra.reachability import Reachability as Reachability, reachability as reachability
from ._spectra.spectrum import Spectrum as Spectrum
from ._spectra.statistics import (
    Uncertainty as Uncertainty,
    effective_rank as effective_rank,
    entropy_rate as entropy_rate,
    kaplan_yorke_dimension as kaplan_yorke_dimension,
    participation_ratio as participation_ratio,
)
from ._term import FlossingTerm as FlossingTerm
from ._training.epoch import (
    Flossing as Flossing,
    FlossingRecord as FlossingRecord,
    FlossingState as FlossingState,
)
from ._training.floss import FlossingHistory as FlossingHistory, floss as floss
from ._training.train import (
    Chunk as Chunk,
    TrainingState as TrainingState,
    clip_by_array_norm as clip_by_array_norm,
    init_training as init_training,
    train as train,
)
from .losses import flossing_loss as flossing_loss

__version__: str
__all__: list[str]
