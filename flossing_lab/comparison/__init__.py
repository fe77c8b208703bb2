"""Compares training without and with flossing, for each task and network: `python -m flossing_lab.comparison`.

`settings.py` lists tasks, networks and settings, `runs.py` performs one run, `table.py` renders the table, and
`__main__.py` distributes the runs over processes. The library imports nothing from here.
"""
