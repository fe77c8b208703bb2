"""Run the command line and count its compilations: `python -m benchmarks.counted COUNTS.json train --delay 20 ...`."""

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
        # JAX counts a miss only if it then stores the program, so misses are requests minus hits.
        missed = counts["programs"] - counts["hits"]
        Path(sys.argv[1]).write_text(json.dumps(counts | {"misses": missed}))


if __name__ == "__main__":
    main()
