"""Time and memory of this library compared with alternatives: `python -m benchmarks`, or `make bench`.

A section measures one kind of work and returns rows. Each contender runs in its own process, and contenders take turns,
so that every ratio comes from one run on one machine in one state. The library imports nothing from here.
"""
