"""The bar where nobody watches it."""

import time

from pyro_vae.progress import progress_bar


def test_in_a_file_a_bar_is_a_few_lines(capsys):
    """In a terminal it is drawn ten times a second, so once at each of these steps."""
    with progress_bar(8, "steps", show=True) as bar:
        for _ in range(8):
            time.sleep(0.12)
            bar.update()
    drawn = capsys.readouterr().err
    assert "steps" in drawn
    assert drawn.count("\r") <= 3
