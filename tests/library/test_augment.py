"""Changes of images inside jit, each against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cml_jax.tasks import augment
from cml_jax.types import Batch, Task

IMAGES = jnp.asarray(np.random.default_rng(0).random((200, 5, 6, 3)), jnp.float32)
KEY = jax.random.key(1)


def test_statistics_are_those_of_all_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, 3), np.uint8)
    pixels[..., 2] = 7
    mean, deviation = augment.channel_statistics(pixels)
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(deviation[:2], pixels.std((0, 1, 2))[:2] / 255, rtol=1e-12)
    assert deviation[2] == 1
    normal = np.asarray(augment.normalize(jnp.asarray(pixels, jnp.float32) / 255, mean, deviation))
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std((0, 1, 2)), [1, 1, 0], atol=1e-4)


def test_flip_mirrors_half_of_the_images():
    old = np.asarray(IMAGES)
    new = np.asarray(jax.jit(augment.flip)(KEY, IMAGES))
    mirrored = (new == old[:, :, ::-1]).all((1, 2, 3)).tolist()
    same = (new == old).all((1, 2, 3)).tolist()
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_shift_is_a_crop_of_the_padded_image_and_reaches_every_place():
    shifted = np.asarray(augment.shift(KEY, IMAGES, 2))
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    crops = {(y, x): padded[:, y : y + 5, x : x + 6] for y in range(5) for x in range(5)}
    found = [
        [place for place, crop in crops.items() if (crop[i] == shifted[i]).all()]
        for i in range(len(IMAGES))
    ]
    assert all(len(places) == 1 for places in found)
    assert {places[0] for places in found} == crops.keys()


def test_recolor_is_a_multiple_of_grey_images_and_stays_within_range():
    flat = jnp.full((50, 4, 4, 3), 0.4)
    changed = augment.recolor(KEY, flat, 0.5)
    assert (changed.max((1, 2, 3)) - changed.min((1, 2, 3)) < 1e-6).all()  # brightness alone
    factors = np.asarray(changed[:, 0, 0, 0] / 0.4)
    assert factors.min() > 0.5 - 1e-6 and factors.max() < 1.5 + 1e-6 and factors.std() > 0.2
    strong = augment.recolor(KEY, IMAGES, 1.0)
    assert strong.min() >= 0 and strong.max() <= 1
    np.testing.assert_allclose(augment.recolor(KEY, IMAGES, 0.0), IMAGES, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_saturation_leaves_grey_alone(channels):
    images = IMAGES[..., :channels]
    grey = jnp.broadcast_to(images.mean(-1, keepdims=True), images.shape)
    changed = augment.recolor(KEY, grey, 0.9)
    assert float(jnp.ptp(changed, axis=-1).max()) < 1e-5


def test_support_and_query_are_changed_differently():
    batch = Batch(IMAGES, jnp.zeros(len(IMAGES), jnp.int32))
    task = augment.with_images(augment.flip, KEY, Task(batch, batch))
    assert (task.support.inputs != task.query.inputs).any()
