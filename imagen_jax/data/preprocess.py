"""seqio preprocessors: a decoded record to what a stage trains on.

Each is a function from dataset to dataset that keeps the number and the order
of examples, as the loader checks. A random choice is drawn from the example's
own `seed`, a function of the run's seed and the slot, and never from seqio's
seeds, which count examples from wherever a pipeline was started.
"""

import tensorflow as tf

# Added to an example's seed, so that its choices do not hang together.
_CAPTION, _CROP = (0, 1), (0, 2)


def choose_caption(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Puts one of `captions`, string [n], drawn uniformly, into `caption`."""

  def choose(example):
    captions = example.pop('captions')
    chosen = tf.random.stateless_uniform(
      [], example['seed'] + _CAPTION, 0, tf.size(captions), tf.int32
    )
    return {**example, 'caption': captions[chosen]}

  return dataset.map(choose, num_parallel_calls=tf.data.AUTOTUNE)


def crop_square(dataset: tf.data.Dataset, *, crop: str) -> tf.data.Dataset:
  """Cuts `image`, [H, W, 3], to the largest square, [S, S, 3].

  Args:
    dataset: of examples.
    crop: 'center', or 'random' for any position along the longer side.
  """

  def cut(example):
    height, width, _ = tf.unstack(tf.shape(example['image']))
    side = tf.minimum(height, width)
    spare = tf.maximum(height, width) - side
    if crop == 'random':
      first = tf.random.stateless_uniform(
        [], example['seed'] + _CROP, 0, spare + 1, tf.int32
      )
    else:
      first = spare // 2
    top = tf.where(height > width, first, 0)
    left = tf.where(height > width, 0, first)
    square = example['image'][top : top + side, left : left + side]
    return {**example, 'image': square}

  return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE)


def resize(
  dataset: tf.data.Dataset, *, image_size: int, lowres_size: int | None
) -> tf.data.Dataset:
  """Shrinks square `image` to the stage's sizes, float32 in [-1, 1].

  Both sizes are made from the full square by the same function, so that a
  stage's `lowres` is exactly the `image` that the stage below it trains on.
  Pixels are averaged over the area that they cover: antialiased, and without
  the overshoot of kernels with negative lobes.

  Args:
    dataset: of examples with `image`, uint8 [S, S, 3], S >= image_size.
    image_size: pixels on a side of `image`, [image_size, image_size, 3].
    lowres_size: those of `lowres`; None makes none.
  """

  def shrink(square, size):
    area = tf.image.resize(square[None], (size, size), method='area')[0]
    return tf.ensure_shape(area, [size, size, 3]) / 127.5 - 1.0

  def scale(example):
    square = example['image']
    example = {**example, 'image': shrink(square, image_size)}
    if lowres_size is not None:
      example['lowres'] = shrink(square, lowres_size)
    return example

  return dataset.map(scale, num_parallel_calls=tf.data.AUTOTUNE)
