"""No bytes crash the loaders or the configuration with anything but the project's own error."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_vae.datasets.files import load
from pyro_vae.datasets.kinds import describe
from pyro_vae.runs.parts import GUIDES, PRIORS, parse
from pyro_vae.runs.recipe import Recipe

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _whole(kind):
    out = io.BytesIO()
    if kind == ".npy":
        np.save(out, np.arange(12.0).reshape(4, 3))
    elif kind == ".npz":
        np.savez_compressed(out, x=np.arange(12.0).reshape(4, 3))
    else:
        out.write(b"a,b\n1,2\n3,4\n5,6\n")
    return out.getvalue()


def _try(path):
    """Load and describe; a ValueError in the project's wording is the only way out."""
    try:
        loaded = load(path)
        describe(loaded, np.arange(len(loaded.values)))
    except ValueError as error:
        assert str(error).startswith("expected "), repr(error)  # noqa: PT017


@pytest.mark.parametrize("kind", [".npy", ".npz", ".csv", ".parquet", ".gz", ".png"])
@QUICK
@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_in_words(tmp_path, kind, content):
    folder = tmp_path / kind[1:]
    folder.mkdir(exist_ok=True)
    path = folder / f"x{kind}"
    path.write_bytes(content)
    _try(folder if kind == ".png" else path)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".csv"])
@QUICK
@given(data=st.data())
def test_damaged_files_are_refused_in_words(tmp_path, kind, data):
    content = bytearray(_whole(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x{kind}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile and pandas, about what they then refuse
        _try(path)


@QUICK
@given(text=st.text(alphabet="0123456789.,-+eEinfa\"'\n\t ;", max_size=80))
def test_arbitrary_tables_are_refused_in_words(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    _try(path)


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**10)})
    (tmp_path / "x.npy").write_bytes(out.getvalue())
    with pytest.raises(ValueError, match="truncated"):
        load(tmp_path / "x.npy")
    (tmp_path / "x-ubyte").write_bytes(b"\x00\x00\x08\x03" + b"\xff" * 12)
    with pytest.raises(ValueError, match="half of the free memory"):
        load(tmp_path / "x-ubyte")


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers()))


@QUICK
@given(values=st.dictionaries(st.one_of(st.sampled_from(list(Recipe.__dataclass_fields__)), st.text()), VALUES))
def test_arbitrary_settings_are_refused_in_words(values):
    try:
        recipe = Recipe.of(values)
    except ValueError as error:
        assert str(error).startswith("expected "), repr(error)  # noqa: PT017
    else:
        assert Recipe.of(_read_back(recipe)) == recipe


def _read_back(recipe):
    import tomllib

    return tomllib.loads(recipe.to_toml())


@QUICK
@given(content=st.binary(max_size=60))
def test_an_arbitrary_configuration_file_is_refused_in_words(tmp_path, content):
    path = Path(tmp_path / "c.toml")
    path.write_bytes(content)
    try:
        Recipe.from_toml(path)
    except ValueError as error:
        assert str(error).startswith("expected "), repr(error)  # noqa: PT017


@QUICK
@given(text=st.text(alphabet="GaussianMixturePlanar:=,_num0123456789.", max_size=30))
def test_arbitrary_names_of_parts_are_refused_in_words(text):
    for table in (PRIORS, GUIDES):
        try:
            parse(text, table, "the part")
        except ValueError as error:
            assert str(error).startswith("expected "), repr(error)  # noqa: PT017
