"""What the default command makes of real tables: fit, generated rows, imputation, beside the usual simple models.

python -m tests.benchmarks.bench_tables [--tables wine iris] [--seeds 3] [--blank 0.1]

scikit-learn's tables, with a share of the numeric cells blanked, each trained on by ``pyro-vae train`` as it is.
Held-out log p(x) is in nats a row, in the table's own units. Of 2,000 generated rows, as ``pyro-vae sample`` writes
them, the worst mean and spread of a column are shown; AUC is a random forest's, cross-validated, between them and all
rows, unblanked. Imputed cells are measured in the column's standard deviations.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.ensemble import RandomForestClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from pyro_vae.datasets.encoding import as_written, decode
from pyro_vae.evaluation.imputation import impute
from pyro_vae.runs.folder import Run
from pyro_vae.runs.judgement import judge
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import train

_DRAWN = 2_000


def tables():
    linnerud = datasets.load_linnerud(as_frame=True)
    wine = datasets.load_wine(as_frame=True)
    mixed = wine.data.assign(
        cultivar=wine.target.map(dict(enumerate(wine.target_names))), strong=(wine.data["alcohol"] > 13).astype(int)
    )
    return {
        "iris": datasets.load_iris(as_frame=True).data,
        "wine": wine.data,
        "breast cancer": datasets.load_breast_cancer(as_frame=True).data,
        "diabetes": datasets.load_diabetes(as_frame=True, scaled=False).data,
        "linnerud": pd.concat([linnerud.data, linnerud.target], axis=1),
        "digits": datasets.load_digits(as_frame=True).data,
        "mixed wine": mixed,
    }


def coded(whole, schema):
    """A table's values as numbers: words by their codes."""
    columns = [
        whole[name].map(schema.words[name].index) if name in schema.words else whole[name] for name in whole.columns
    ]
    return np.stack([np.asarray(column, float) for column in columns], -1)


def forest_auc(real, made):
    rng = np.random.RandomState(0)
    x = np.concatenate([real, made])
    y = np.r_[np.zeros(len(real)), np.ones(len(made))]
    order = rng.permutation(len(x))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    forest = RandomForestClassifier(200, random_state=0)
    p = cross_val_predict(forest, x[order], y[order], cv=folds, method="predict_proba")[:, 1]
    return roc_auc_score(y[order], p)


def measure(whole, seed, blank):
    rng = np.random.RandomState(seed)
    hidden = rng.rand(*whole.shape) < blank
    hidden[:, [not pd.api.types.is_numeric_dtype(kind) for kind in whole.dtypes]] = False
    table = whole.astype(dict.fromkeys(whole.select_dtypes("number"), float)).mask(hidden)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        table.to_csv(path, index=False)
        start = time.perf_counter()
        trained = train(Run(Path(folder) / "run"), Recipe.of({"data": str(path), "seed": seed}), notify=_noted)
        seconds = time.perf_counter() - start
        schema, model, x = trained.prepared.schema, trained.model, trained.prepared.x["all"]
        found = {"seconds": seconds, "L": trained.recipe.num_latents, "K": _components(trained.recipe.prior)}
        judgement = judge(trained)
        found["log p"] = float(judgement.evidence.log_evidence.mean())
        found |= {name: float(value.mean()) for name, value in judgement.baselines.log_prob.items()}
        values = coded(whole, schema)
        rows = decode(schema, model.sample(_DRAWN)[model.observed])
        made = as_written(schema, rows, dtype=x.dtype, rng=np.random.default_rng(seed))
        varied = values.std(0) > 0
        sd = values.std(0)[varied]
        found["mean off"] = np.abs((made.mean(0) - values.mean(0))[varied] / sd).max()
        ratio = np.maximum(made.std(0)[varied], 1e-9) / sd
        found["sd ratio"] = np.maximum(ratio, 1 / ratio).max()
        found["AUC"] = forest_auc(values, made)
        draws = decode(schema, impute(model, x, trained.guide, num_samples=200, num_particles=1_000))
    return found | imputed(values, np.where(hidden, np.nan, values), hidden, draws)


def _noted(line):
    if line.startswith("note"):
        print("  " + line, flush=True)


def _components(prior):
    return int(prior.partition("num_components=")[2].partition(",")[0] or 1)


def imputed(values, table, hidden, draws):
    hidden = hidden & (values.std(0) > 0)
    sd = np.where(values.std(0) > 0, values.std(0), 1.0)

    def rmse(filled):
        return float(np.sqrt((((filled - values) / sd)[hidden] ** 2).mean()))

    mean = np.broadcast_to(np.nanmean(table, 0), table.shape)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    inside = ((values >= low - 1e-9) & (values <= high + 1e-9))[hidden]
    iterative = IterativeImputer(random_state=0, max_iter=30).fit_transform(table)
    if iterative.shape != table.shape:
        iterative = mean
    return {
        "imputed": rmse(draws.mean(0)),
        "column mean": rmse(mean),
        "IterativeImputer": rmse(iterative),
        "90 % covers": float(inside.mean()),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", nargs="+", default=list(tables()))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--blank", type=float, default=0.1)
    parser.add_argument("--data", help="not used here")
    args = parser.parse_args()
    for name in args.tables:
        rows = []
        for seed in range(args.seeds):
            rows.append(measure(tables()[name], seed, args.blank))
            print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.3g}" for k, v in rows[-1].items()), flush=True)
        frame = pd.DataFrame(rows)
        medians = frame.median(numeric_only=True)
        print(f"\n{name}: medians of {args.seeds} seeds", flush=True)
        print("  " + ", ".join(f"{key} {value:.3g}" for key, value in medians.items()), flush=True)


if __name__ == "__main__":
    main()
