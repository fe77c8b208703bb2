"""`flossing compare`: trials of networks in several arms, such as without and with flossing.

    protocol    what a TOML file says, in sections: tasks, networks, arms, ranges of settings or fixed networks
    making      one run: draw a network, train it (training, forecast), and test it; opponents has their cells and terms
    runs        perform the missing runs on workers, and collect them
    table       the result as Markdown, by paired draws (paired), best draws (best), contenders, or seeds; and pictures

The library imports nothing from here.
"""
