"""How far the colours of pictures are from those of others.

A shift of colour is how super-resolution stages are known to fail: each picture
by itself looks right.
"""

import numpy as np


def against(pictures: np.ndarray, data: np.ndarray) -> dict[str, float]:
  """How far `pictures` are from `data` in mean colour and in contrast.

  Args:
    pictures: uint8 [N, H, W, 3].
    data: as many, of any size.

  Returns:
    `shift_r`, `shift_g` and `shift_b`: means less those of `data`, where black
    is -1 and white 1; and `contrast`: the root mean square of what pixels
    differ from the mean colour of their picture, over that of `data`; NaN where
    `data` has none.
  """
  (mean, spread), (wanted, wanted_spread) = _of(pictures), _of(data)
  found = {f'shift_{c}': float(d) for c, d in zip('rgb', mean - wanted)}
  found['contrast'] = spread / wanted_spread if wanted_spread else np.nan
  return found


def _of(pictures):
  """Mean colour, [3], and contrast, in units of [-1, 1]."""
  x = np.asarray(pictures, np.float64) / 127.5 - 1
  each = x.mean(axis=(1, 2), keepdims=True)
  return each.mean(axis=(0, 1, 2)), float(np.mean((x - each) ** 2) ** 0.5)
