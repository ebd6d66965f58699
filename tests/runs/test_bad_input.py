"""Tables as people have them: each is read, with a word on what was done to it, or refused in a sentence that helps."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.datasets.encoding import as_written, decode
from pyro_vae.datasets.files import load
from pyro_vae.datasets.tables import Layout
from pyro_vae.runs.columns import choose_likelihoods, column_scale, with_choices
from pyro_vae.runs.data import prepare
from pyro_vae.runs.recipe import Recipe

N = 60
RANDOM = np.random.RandomState(0)
Z = RANDOM.randn(N)
BASE = pd.DataFrame({"a": 10 + 2 * Z, "b": -Z + 0.3 * RANDOM.randn(N)}).round(3)


def _with(values, name="k", mask=None):
    """The base table with one more column; empty where the mask says so."""
    column = pd.Series(values, index=BASE.index, dtype=object)
    if mask is not None:
        column[mask] = None
    return BASE.assign(**{name: column})


def _text(**settings):
    return BASE.to_csv(index=False, **settings)


EVERY_THIRD = np.arange(N) % 3 == 0
DAYS = pd.date_range("2020-01-01", periods=N)

# what is in the file, and what is said
READ = {
    "constant": (_with(3.5), "columns of one value, 'k'"),
    "one value and blanks": (_with(7.0, mask=EVERY_THIRD), "columns of one value, 'k'"),
    "one word and blanks": (_with("yes", mask=EVERY_THIRD), "columns of one value, 'k'"),
    "numbered rows": (_with(range(1, N + 1)), "columns that rise with every row, 'k': ids? --drop 'k'"),
    "dates that repeat": (_with([f"2020-0{1 + i % 4}-01" for i in range(N)]), "dates that repeat are categories"),
    "20 rows": (BASE[:20], "20 rows are few"),
    "5 rows": (BASE[:5], "no row is held out"),
    "wide": (pd.DataFrame(RANDOM.randn(55, 70)), "70 columns and 56 rows"),
    "two names alike": ("a,a,b\n" + "1.5,2,3\n4,5.5,6\n" * 30, "number 2 as 'a.1'"),
    "no name": (",a\n" + "1.5,2.5\n3.1,4\n" * 30, "number 1 as 'unnamed_1'"),
    "no names at all": ("5.1,3.5,x\n" + "4.9,3.0,y\n4.5,3.1,x\n" * 30, "the first line is taken as names: 5.1, 3.5, x"),
    "blank rows": (BASE.mask(np.arange(N)[:, None] == [3, 3]), "1 of 60 rows have no value at all"),
    "semicolons": (_text(sep=";"), ""),
    "tabs": (_text(sep="\t"), ""),
    "decimal commas": (_text(sep=";", decimal=","), "decimal commas are read as points: a, b"),
    "decimal commas without names": (_text(sep=";", decimal=",", header=False), "decimal commas are read as points"),
    "booleans": (_with(np.where(Z > 0, "TRUE", "FALSE")), "FALSE is 0, TRUE is 1: k"),
    "booleans and blanks": (_with(np.where(Z > 0, "true", "false"), mask=EVERY_THIRD), "FALSE is 0, TRUE is 1: k"),
    "blanks around": ("a , b\n" + " 1.5 ,\t2\n3,  4.25\n" * 30, ""),
    "NA": (_with(np.where(EVERY_THIRD, "NA", "2.5"), "k").assign(c=Z), "'NA' is read as missing: k (20 cells)"),
    "question marks": (_with(np.where(EVERY_THIRD, "?", Z.astype(str))), "'?' is read as missing: k (20 cells)"),
    "marks among words": (_with(np.where(EVERY_THIRD, "-", "x")), "'-' is read as missing: k (20 cells)"),
    "huge": (_with(1e12 * (1 + Z)), ""),
    "tiny": (_with(1e-12 * Z), ""),
    "huge offset": (_with(1e12 + Z), ""),
    "a mark at the start": ("﻿" + _text(), ""),
    "one column, an empty line": ("a\n1.5\n\n" + "2.5\n3.5\n" * 30, "1 of 62 rows have no value at all"),
}

# what is in the file, and what is to be read in the refusal
REFUSED = {
    "id": (_with([f"P{i}" for i in range(N)]), ["another in every row, such as 'P0', in column 'k'", "--drop 'k'"]),
    "dates": (_with(DAYS.strftime("%Y-%m-%d")), ["dates, such as '2020-01-01', in column 'k'", "--drop 'k'"]),
    "dates, day first": (_with(DAYS.strftime("%d.%m.%Y")), ["dates, such as '01.01.2020'", "days since the first"]),
    "many words": (
        pd.DataFrame({"a": range(2000), "city": [f"c{i % 1000}" for i in range(2000)]}),
        ["1000 different words in 2000 cells", "column 'city'", "--drop 'city', or one word for all rare ones"],
    ),
    "1 row": (BASE[:1], ["at least 5 rows to train on; got 1 of 1", "more rows"]),
    "all held out": (BASE[:6].assign(c=1.0), ["at least 5 rows to train on; got 4 of 6", "--test 0 --validation 0"]),
    "empty": ("", ["an empty file", "a file that holds data"]),
    "only spaces": ("\n\n", ["an empty file"]),
    "names only": ("a,b\n", ["at least one row"]),
    "blank column": (_with(None), ["none in column 'k'", "--drop 'k'"]),
    "nearly blank column": (_with(1.5, mask=np.arange(N) > 2), ["at least 5 values of every column", "column 'k'"]),
    "infinite": (_with(np.where(EVERY_THIRD, "inf", "1.5")), ["an infinite value in data row 0, column 'k'", "empty"]),
    "a word among numbers": (
        _with(["high" if i == 7 else 1.5 * i for i in range(N)]),
        ["'high' in data row 7, column 'k'", "(1 such cells)", "--drop 'k'"],
    ),
    "bounds among numbers": (_with(np.where(EVERY_THIRD, "<0.1", "1.5")), ["'<0.1' in data row 0", "20 such cells"]),
    "percent": (_with([f"{50 + z:.1f}%" for z in Z]), ["plain numbers", "%' in data row 0", "the number alone"]),
    "thousands": (_with([f"{1e5 * np.exp(z):,.0f}" for z in Z]), ["plain numbers", "nothing between thousands"]),
    "other encoding": ("Größe,b\n1,2\n".encode("latin-1"), ["byte 0xf6 in line 1", "iconv -f WINDOWS-1252"]),
    "two bytes a letter": (_text().encode("utf-16"), ["byte 0xff in line 1", "iconv -f UTF-16"]),
    "unequal lines": ("a,b\n1,2\n3,4,5\n", ["2 columns in each line; got 3 in line 3"]),
}


def _written(content, folder):
    path = folder / "table.csv"
    if isinstance(content, pd.DataFrame):
        content = content.to_csv(index=False)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _prepared(path, **settings):
    shares = {"test": 0.2, "validation": 0.2} if settings.pop("split", True) else {}
    return prepare(Recipe.of({"data": str(path), "likelihood": "Gaussian", **shares, **settings}))


@pytest.mark.parametrize("name", READ)
def test_a_table_is_read_and_what_was_done_to_it_is_said(name, tmp_path):
    content, said = READ[name]
    prepared = _prepared(_written(content, tmp_path), split=False)
    assert said in "; ".join(prepared.notes)
    x = prepared.x["all"]
    assert x.isfinite().any(0).all()
    assert not x.isinf().any()


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_is_refused_in_a_sentence_that_says_what_to_do(name, tmp_path):
    content, said = REFUSED[name]
    with pytest.raises(ValueError, match=r"^expected ") as error:
        _prepared(_written(content, tmp_path))
    for words in said:
        assert words in str(error.value)
    assert "; try " in str(error.value)


def test_separators_and_decimal_commas_give_the_table_that_commas_and_points_give(tmp_path):
    plain = load(_written(_text(), tmp_path)).values
    for settings in ({"sep": ";"}, {"sep": "\t"}, {"sep": "|"}, {"sep": ";", "decimal": ","}):
        np.testing.assert_array_equal(load(_written(_text(**settings), tmp_path)).values, plain)
    np.testing.assert_array_equal(load(_written(_text(sep=";", decimal=",", header=False), tmp_path)).values, plain)


def test_a_table_comes_back_from_single_precision_with_its_own_digits(tmp_path):
    table = BASE.assign(
        huge=(1e12 * (1 + Z)).round(-6), tiny=[float(f"{1e-12 * z:.3g}") for z in Z], loc=1e6 + BASE["a"]
    )
    prepared = _prepared(_written(table, tmp_path))
    back = as_written(prepared.schema, decode(prepared.schema, prepared.x["all"]), dtype=prepared.dtype)
    np.testing.assert_array_equal(back, table.to_numpy())


def test_marks_of_missing_cells_are_nan_and_blanks_around_words_do_not_count(tmp_path):
    text = "a,k\n1, Rome\nNA,Rome \n?,Bonn\n-,n/a\n,Bonn\n"
    loaded = load(_written(text, tmp_path))
    np.testing.assert_array_equal(loaded.values[:, 0], [1, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(loaded.values[:, 1], [1, 1, 0, np.nan, 0])
    assert loaded.categories == {"k": ("Bonn", "Rome")}


def test_dates_of_parquet_are_no_numbers_and_its_other_types_are(tmp_path):
    frame = BASE.assign(s=pd.Categorical(np.where(Z > 0, "u", "v")), f=Z > 0, n=pd.array([1, None] * 30, dtype="Int64"))
    frame.to_parquet(tmp_path / "table.parquet")
    loaded = load(tmp_path / "table.parquet")
    np.testing.assert_array_equal(loaded.values[:, 3], Z > 0)
    assert np.isnan(loaded.values[1::2, 4]).all()
    assert loaded.categories == {"s": ("u", "v")}
    BASE.assign(day=DAYS).to_parquet(tmp_path / "dates.parquet")
    with pytest.raises(ValueError, match="dates, such as '2020-01-01 00:00:00', in column 'day'"):
        load(tmp_path / "dates.parquet")


def test_columns_are_dropped_by_name_and_that_is_said(tmp_path):
    path = _written(_with([f"P{i}" for i in range(N)], "id"), tmp_path)
    prepared = _prepared(path, drop="id, a")
    assert prepared.schema.columns == ("b",)
    assert "left out, as asked for: id, a" in prepared.notes
    with pytest.raises(ValueError, match=r"a column to drop that .* has; got 'c'; try one of 'a', 'b', 'id'"):
        _prepared(path, drop="c")
    with pytest.raises(ValueError, match="all dropped"):
        _prepared(path, drop="id,a,b")


def test_other_data_are_read_by_name_and_by_the_words_of_training(tmp_path):
    like = Layout(("city", "size"), {"city": ("Bonn", "Rome", "Ulm")})
    loaded = load(_written("size,id,city\n1.5,p,Ulm\n2.5,q,Rome\n,r,\n", tmp_path), like=like)
    np.testing.assert_array_equal(loaded.values, [[2, 1.5], [1, 2.5], [np.nan, np.nan]])
    assert loaded.notes == ("left out, as no column of the training data: id",)
    for text, words in (
        ("size,town\n1.5,Ulm\n", "none named 'city'"),
        ("size,city\n1.5,Paris\n", "in column 'city': 'Bonn', 'Rome', 'Ulm'; got 'Paris' in data row 0"),
        ("size,city\nbig,Ulm\nbig,Ulm\n", "expected numbers; got 'big' in data row 0"),
    ):
        with pytest.raises(ValueError, match=words):
            load(_written(text, tmp_path), like=like)


def test_a_constant_column_is_certain_and_nothing_is_chosen_for_it(tmp_path):
    prepared = _prepared(_written(_with(3.5)[["k"]].assign(f=(Z > 0).astype(int)), tmp_path))
    table = torch.tensor(np.stack([np.full(N, 3.5), Z > 0], -1))
    schema, choices = with_choices(prepared.schema, table, table, likelihood="auto", standardise=True, seed=0)
    assert schema.likelihoods == ("Categorical", "Bernoulli")
    assert str(choices[0]) == "Categorical"


def test_a_column_with_values_in_few_folds_still_gets_a_likelihood():
    values = torch.full((600, 1), torch.nan, dtype=torch.float64)
    values[:5, 0] = torch.arange(5.0)
    assert choose_likelihoods(["real"], values)[0].likelihood
    assert column_scale("Gaussian", values[5:, 0][~values[5:, 0].isnan()]) == (0.0, 1.0)
