"""Comparisons of arms, such as without and with flossing, for tasks and networks.

`trial/` has the trials of `flossing compare`: settings are drawn, and a TOML file is the protocol. The studies of
`python -m flossing_lab.comparison` have fixed networks: `protocol.py` says what their protocol is, `protocols.py` lists
them. `runs.py` performs one run of either, `solved.py` renders the tables of the studies, and `__main__.py` distributes
their runs over processes. The library imports nothing from here.
"""
