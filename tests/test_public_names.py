"""The public names: lazy, whole, and the same for a type checker as at run time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae


def _names_for_type_checkers():
    tree = ast.parse(Path(pyro_vae.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    for node in block.body:
        for alias in node.names:
            is_package = node.module == "pyro_vae"  # a name of theirs is a module
            home = f"{node.module}.{alias.name}" if is_package else node.module
            yield alias.asname, home


def test_a_type_checker_sees_what_is_there_at_run_time():
    assert dict(_names_for_type_checkers()) == pyro_vae._HOMES


def test_every_name_is_where_it_says_and_is_listed():
    for name in pyro_vae.__all__:
        value = getattr(pyro_vae, name)
        home = sys.modules[pyro_vae._HOMES[name]]
        assert value is home or value is getattr(home, name)
        assert name in dir(pyro_vae)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pyro_vae.nothing


def test_importing_the_package_and_asking_for_help_load_neither_torch_nor_pyro():
    code = (
        "import sys, pyro_vae, pyro_vae.cli\n"
        "heavy = {'torch', 'pyro', 'numpy', 'pandas', 'matplotlib', 'zuko', 'arviz'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
