"""Comparisons of arms, such as without and with flossing, for tasks and networks: `python -m flossing_lab.comparison`.

`protocol.py` says what a protocol is, and `architectures.py`, `writing.py` and `harmless.py` are the protocols, with
their tasks, networks and settings. `runs.py` performs one run, `table.py` and `solved.py` render the tables, and
`__main__.py` distributes the runs over processes. The library imports nothing from here.
"""
