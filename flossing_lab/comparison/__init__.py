"""Tasks by networks, without and with flossing: `python -m flossing_lab.comparison`.

`settings.py` says what is compared, `runs.py` makes one run, `table.py` the table, `__main__.py` shares the runs out
among processes. Nothing here is imported by the library.
"""
