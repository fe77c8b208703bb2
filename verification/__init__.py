"""Our numbers beside the literature's: `python -m verification`, or `make verify`.

One room a kind of system. A check is a function that returns rows; a row says what is compared with what, how large
the deviation may be and why, and its own verdict. A row that fails stays in.
"""
