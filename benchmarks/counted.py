"""The command line with its compilations counted: `python -m benchmarks.counted COUNTS.json train --delay 20 ...`."""

import collections
import json
import sys
from pathlib import Path

EVENTS = {
    "/jax/compilation_cache/compile_requests_use_cache": "programs",
    "/jax/compilation_cache/cache_hits": "hits",
}


def main():
    import jax.monitoring

    from flossing_lab.cli import main

    counts = collections.Counter(dict.fromkeys(EVENTS.values(), 0))

    def listen(event, **_):
        if event in EVENTS:
            counts[EVENTS[event]] += 1

    jax.monitoring.register_event_listener(listen)
    try:
        main(sys.argv[2:])
    finally:
        # JAX counts as a miss only what it then stores, so what was not found is the rest.
        missed = counts["programs"] - counts["hits"]
        Path(sys.argv[1]).write_text(json.dumps(counts | {"misses": missed}))


if __name__ == "__main__":
    main()
