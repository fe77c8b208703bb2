"""The tests. Their processes compile a program once between them, and leave the user's own cache alone."""

import os
from pathlib import Path

os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "user")
