"""Lyapunov exponents and gradient flossing of recurrent networks written in PyTorch."""

from flossing.pytorch._floss import (
    FlossingHistory as FlossingHistory,
    FlossingRecord as FlossingRecord,
    floss as floss,
    flossing_loss as flossing_loss,
)
from flossing.pytorch._lyapunov import Spectrum as Spectrum, lyapunov_spectrum as lyapunov_spectrum
