"""The tests. Their processes compile a program once between them, and leave the user's own cache alone.

XLA optimises nothing here: nearly all of a test's time is compilation, which is five times faster so.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "user")
