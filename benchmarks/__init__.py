"""What it costs, beside what it would cost otherwise: `python -m benchmarks`, or `make bench`.

A section measures one kind of work and returns rows. Contenders live in processes of their own and take turns, so that
every ratio comes from one run on one machine in one state. Nothing here is imported by the library.
"""
