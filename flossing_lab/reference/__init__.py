"""The reference experiment: the network, the tasks and the training of the released code."""
