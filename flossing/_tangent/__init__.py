"""The tangent flow of a step: the problem, the flow, its adjoint, and the interval between QR decompositions."""
