"""The tests. Their processes share a compilation cache of their own and leave the user's cache alone.

XLA optimisation is switched off: nearly all test time is compilation, which is then five times faster.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "user")
# In the environment, so that modules may compile while they are imported, and processes that tests start reuse it all.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(os.environ["XDG_CACHE_HOME"]) / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
