"""The programs of the atlas, one a file, each with a function ``problem()``."""

NAMES = (
    # regressions
    "linear_regression",
    "logistic_regression",
    "poisson_regression",
    "robust_regression",
    # hierarchies
    "eight_schools_centred",
    "eight_schools_noncentred",
    # time
    "ar2",
    "local_level",
    "seasonal",
    "changepoint",
    "gaussian_process",
    # shapes
    "ill_conditioned",
    "heavy_tails",
    "funnel",
    "banana",
    "donut",
    "two_modes",
    "many_modes",
)
