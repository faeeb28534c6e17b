"""Pictures of a person's own, as samplers start from them."""

import numpy as np
from PIL import Image

from imagen_jax import storage
from imagen_jax import structs


def open_pictures(image: str, mask: str | None):
  """The picture to start from and its mask, as files have them.

  Args:
    image: path of a picture.
    mask: path of a picture of the same size, white where to paint anew and
      black where to keep; None for none.

  Returns:
    Two PIL pictures, in colour and in grey; the second may be None.

  Raises:
    ValueError: where a file is no picture, or the mask does not fit.
  """
  picture = _open('--init-image', image).convert('RGB')
  if mask is None:
    return picture, None
  grey = _open('--mask', mask).convert('L')
  if grey.size != picture.size:
    raise ValueError(
      f'--mask {mask} has {grey.width}x{grey.height} pixels; accepted: as '
      f'many as --init-image has, {picture.width}x{picture.height}'
    )
  if not (np.asarray(grey) >= 128).any():
    raise ValueError(
      f'--mask {mask} is black all over; accepted: white where the picture is '
      'to be painted anew'
    )
  return picture, grey


def _open(flag, path):
  file = storage.Path(path)
  if not file.is_file():
    raise ValueError(f'{flag} is {path!r}; accepted: a file with a picture')
  try:
    with file.open('rb') as stream, Image.open(stream) as image:
      image.load()
      return image.copy()
  except OSError as error:
    raise ValueError(
      f'{flag} {path} cannot be read ({error}); accepted: a picture, as PNG or '
      'JPEG'
    ) from None


def edit_of(picture, mask, size: int) -> structs.Edit:
  """The middle square of a picture at a stage's size, for one sample.

  A pixel is painted anew where any of it is white in the mask, so that what is
  kept is none of what should go.

  Args:
    picture: PIL picture, in colour.
    mask: PIL picture of the same size, in grey; or None.
    size: pixels on a side.

  Returns:
    NumPy arrays, [size, size, 3] in [-1, 1] and [size, size, 1] of 0 and 1.
  """
  side = min(picture.size)
  left, top = ((length - side) // 2 for length in picture.size)
  box = (left, top, left + side, top + side)
  image = picture.resize((size, size), Image.Resampling.LANCZOS, box=box)
  image = np.asarray(image, np.float32) / 127.5 - 1
  if mask is None:
    return structs.Edit(image)
  white = mask.point(lambda value: 255 * (value >= 128))
  area = white.convert('F').resize((size, size), Image.Resampling.BOX, box=box)
  return structs.Edit(image, np.float32(np.asarray(area) > 0.5)[..., None])
