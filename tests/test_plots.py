"""What a figure shows, read off its pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

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


def test_canvases_stand_in_rows_with_their_windows():
    steps = torch.arange(2 * 3 * 20).reshape(2, 3, 20) / 120
    boxes = torch.tensor([1.0, -7.0, 3.0, 2.5]).expand(2, 3, 4)  # its top is above the image
    figure = plots.canvases(steps, image_shape=(4, 5), write=boxes, x=torch.ones(3, 20))
    assert len(figure.axes) == 9
    for n in range(3):
        first, second, original = figure.axes[3 * n : 3 * n + 3]
        np.testing.assert_allclose(first.images[0].get_array(), steps[0, n].view(4, 5))
        np.testing.assert_allclose(second.images[0].get_array(), steps[1, n].view(4, 5))
        np.testing.assert_allclose(original.images[0].get_array(), 1)
        (rectangle,) = first.patches
        assert rectangle.get_bbox().extents.tolist() == [1.0, 0.0, 3.0, 2.5]
        assert not original.patches


def test_a_gif_has_a_frame_a_step_with_every_pixel_and_window_in_its_place(tmp_path):
    steps = torch.zeros(3, 2, 20)
    steps[1, 1, 7] = 1.0  # row 1, column 2 of the second image
    box = torch.tensor([0.0, 0.0, 4.0, 3.0]).expand(3, 2, 4)
    for boxes in (None, box):
        path = plots.save_canvases_gif(tmp_path / "a.gif", steps, image_shape=(4, 5), write=boxes, zoom=4, seconds=0.2)
        with Image.open(path) as gif:
            assert gif.n_frames == 3
            assert gif.size == (44, 16)
            gif.seek(1)
            assert gif.info["duration"] == 200
            frame = np.asarray(gif.convert("RGB")).astype(int)
        dark = np.argwhere(frame.max(-1) < 60)
        assert dark.min(0).tolist() == [4, 24 + 8]
        assert dark.max(0).tolist() == [7, 24 + 11]
        coloured = np.argwhere(frame[..., 0] - frame[..., 2] > 60)
        assert (len(coloured) > 0) == (boxes is not None)
        if boxes is not None:
            assert coloured.min(0).tolist() == [2, 2]
            assert coloured[coloured[:, 1] < 20].max(0).tolist() == [14, 18]


def test_canvases_of_another_shape_get_a_sentence():
    with pytest.raises(ValueError, match=r"canvases \(T, N, 20\)"):
        plots.canvases(torch.zeros(3, 20), image_shape=(4, 5))
    with pytest.raises(ValueError, match="read windows of shape"):
        plots.canvases(torch.zeros(3, 2, 20), image_shape=(4, 5), read=torch.zeros(3, 4))
