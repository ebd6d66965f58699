"""The programs of the atlas, one a file, each with a function ``problem()``."""

NAMES = (
    "linear_regression",
    "funnel",
)
