"""What a figure shows, read off its pixels."""

import numpy as np
import torch

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
