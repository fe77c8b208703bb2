"""Compares our numbers with exact results and the literature: `python -m verification`, or `make verify`.

Each module covers one kind of system. A check is a function that returns rows. A row states what is compared, the
allowed deviation and its reason, and the verdict. Rows that fail stay in the table.
"""
