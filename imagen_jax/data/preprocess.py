"""seqio preprocessors: a decoded record to what a stage trains on.

Each is a function from dataset to dataset that keeps the number and the order
of examples, as the loader checks. A random choice is drawn from the example's
own `seed`, a function of the run's seed and the slot, and never from seqio's
seeds, which count examples from wherever a pipeline was started.
"""

import tensorflow as tf

# Added to an example's seed, so that its choices do not hang together.
_CAPTION, _CROP, _TOP, _LEFT = (0, 1), (0, 2), (0, 3), (0, 4)


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


def shrink_whole(dataset: tf.data.Dataset, *, size: int) -> tf.data.Dataset:
  """Shrinks `image`, [H, W, 3], until its shorter side has `size` pixels.

  By the average over the area that a pixel covers, as `resize` does.

  Args:
    dataset: of examples with `image`, uint8, both sides of `size` or more.
    size: pixels of the shorter side.

  Returns:
    Examples with `image` as float32 in [0, 255], not rounded to bytes.
  """

  def shrink(example):
    sides = tf.cast(tf.shape(example['image'])[:2], tf.float64)
    scaled = tf.round(sides * (size / tf.reduce_min(sides)))
    image = tf.image.resize(
      example['image'][None], tf.cast(scaled, tf.int32), method='area'
    )
    return {**example, 'image': image[0]}

  return dataset.map(shrink, num_parallel_calls=tf.data.AUTOTUNE)


def cut_square(
  dataset: tf.data.Dataset, *, size: int, crop: str
) -> tf.data.Dataset:
  """Cuts a square of `size` pixels out of `image`, [H, W, 3].

  Args:
    dataset: of examples whose pictures are that large.
    size: pixels on a side.
    crop: 'center', or 'random' for any position, along both sides.
  """

  def cut(example):
    def first(side, purpose):
      spare = side - size
      if crop != 'random':
        return spare // 2
      return tf.random.stateless_uniform(
        [], example['seed'] + purpose, 0, spare + 1, tf.int32
      )

    height, width, _ = tf.unstack(tf.shape(example['image']))
    top, left = first(height, _TOP), first(width, _LEFT)
    square = example['image'][top : top + size, left : left + size]
    return {**example, 'image': square}

  return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE)


def resize(
  dataset: tf.data.Dataset, *, image_size: int, lowres_size: int | None
) -> tf.data.Dataset:
  """Shrinks square `image` to the stage's sizes, float32 in [-1, 1].

  Both sizes are made from the full square by the same function, so that a
  stage's `lowres` is exactly the `image` that the stage below it trains on. Of
  a crop that was cut at `image_size`, `image` is every pixel as it was.
  Pixels are averaged over the area that they cover: antialiased, and without
  the overshoot of kernels with negative lobes.

  Args:
    dataset: of examples with `image`, [S, S, 3] in [0, 255], S >= image_size.
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
