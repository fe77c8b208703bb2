"""The modules of checks, in the order of the page; each holds `FAST` and `SLOW` checks."""

from verification import driven, flows, maps, matrices, networks, whole_spectra

MODULES = (matrices, maps, flows, driven, networks, whole_spectra)
