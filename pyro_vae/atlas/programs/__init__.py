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
    "radon",
    "seeds",
    "item_response",
    # time
    "ar2",
    "local_level",
    "seasonal",
    "stochastic_volatility",
    "lotka_volterra",
    "gaussian_process",
    # discrete sites, summed out
    "changepoint",
    "gaussian_mixture",
    "latent_class",
    # factors and networks
    "matrix_factorisation",
    "neural_network",
    "vae_digit",
    # pure shapes
    "ill_conditioned",
    "heavy_tails",
    "funnel",
    "banana",
    "donut",
    "two_modes",
    "many_modes",
)

# Programs whose long chains have not been run to the end yet: loaded by name, but not listed, as they have no truth.
UNFINISHED = (
    "horseshoe",
    "hidden_markov",
    "factor_analysis",
)
