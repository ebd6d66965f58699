"""What a figure shows, read off its pixels."""

import numpy as np
import torch

import pyro_vae as pv
from pyro_vae import plots


def test_images_of_the_decoder_plane_keep_apart():
    class Ones:
        mean = torch.ones(9, 16)

    figure = plots.decoder_plane(lambda z: Ones, image_shape=(4, 4), num_points=3)
    picture = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    white = np.isnan(picture)
    assert picture.shape == (14, 14)  # 3 images of 4 and 2 gaps of 1 a side
    assert [row for row in range(14) if white[row].all()] == [4, 9]
    assert [column for column in range(14) if white[:, column].all()] == [4, 9]
    assert (~white).sum() == 9 * 16


def test_a_criticism_marks_the_column_that_is_wrong_in_all_three_panels():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(torch.nn.Linear(1, 3), scale=0.5))
    x = model.sample(120)["x"]
    x[:, 1] += 3
    found = pv.criticise(model, x, names=["a", "b", "c"], num_replicates=60)
    left, middle, right, _ = plots.criticism(found).axes
    colours = {label.get_text(): label.get_color() for label in left.get_yticklabels()}
    assert len({colours["a"], colours["c"]}) == 1
    assert colours["b"] != colours["a"]
    strips = np.asarray(middle.images[0].get_array())
    assert strips.shape[0] == 3
    np.testing.assert_allclose(strips.mean(1), 1)  # each is a density
    assert strips[1, -1] > 2 * strips[[0, 2], -1].max()
    points = np.concatenate([line.get_xdata() for line in right.lines if line.get_linestyle() == "None"])
    pairs = sorted(f.observed for f in found.findings if len(f.columns) == 2)
    np.testing.assert_allclose(sorted(points), pairs)
