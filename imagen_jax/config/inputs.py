"""What a stage is trained on: text embeddings and pictures."""

import dataclasses

from imagen_jax.config.checks import above_zero
from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import one_of
from imagen_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The frozen text encoder and the store of its embeddings.

  Attributes:
    encoder: a name from the table in `imagen_jax/text/encoders.py`.
    checkpoint: where its weights lie: a T5X checkpoint, local or in a bucket
      ('gs://t5-data/pretrained_models/t5x/t5_1_1_xxl/checkpoint_1000000' is the
      published one of the default encoder), or a folder with safetensors;
      'package:NAME' looks into an installed Python package; empty takes the
      published ones that the table names.
    vocabulary: its SentencePiece model or tokenizer.json; empty looks beside
      the checkpoint, then takes the table's.
    max_length: tokens a caption is cut or padded to.
    embed_dim: width of an embedding; checked against the encoder.
    dtype: type that the encoder computes in.
    stored_dtype: what a store holds: 'bfloat16', or 'int8' with a scale for
      each token, half the size. Training reads bfloat16 either way.
    rows: captions that each device encodes at once; the same ahead of time
      and online, as a compiled encoder rounds differently for every shape.
    store: folder of precomputed embeddings, local or gs://..., written by
      `imagen-jax encode`.
    online: encode while training, on the same devices, in place of reading
      `store`, which may then be empty.
  """

  encoder: str = 't5_1_1_xxl'
  checkpoint: str = ''
  vocabulary: str = ''
  max_length: int = 128
  embed_dim: int = 4096
  dtype: str = 'float32'
  stored_dtype: str = 'bfloat16'
  rows: int = 16
  store: str = ''
  online: bool = False

  def __post_init__(self):
    at_least('text.rows', self.rows, 1)
    one_of('text.stored_dtype', self.stored_dtype, ('bfloat16', 'int8'))
    at_least('text.max_length', self.max_length, 1)
    at_least('text.embed_dim', self.embed_dim, 1)
    one_of('text.dtype', self.dtype, ('bfloat16', 'float32'))


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """One source of text-image pairs; becomes a seqio Task.

  Attributes:
    name: the Task's name.
    path: folder of a TFDS dataset in ArrayRecord form, as `imagen-jax data
      build` writes it.
    rate: share of the mixture, relative to the other tasks.
    split: split to train on.
  """

  name: str
  path: str
  rate: float = 1.0
  split: str = 'train'

  def __post_init__(self):
    above_zero(f'data.tasks[{self.name}].rate', self.rate)


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The mixture that a stage trains on.

  Attributes:
    tasks: the mixture's parts.
    crop: 'center' or 'random': which square of a picture is kept: the largest,
      or one of `stage.image_size` where there is a `stage.whole_size`.
    max_bad_share: largest share of records that may be skipped as damaged
      before the run stops. Pictures too small for the stage are left out too,
      but nothing is wrong with them: they are counted apart.
    prefetch: batches prepared ahead.
  """

  tasks: tuple[TaskConfig, ...] = ()
  crop: str = 'center'
  max_bad_share: float = 0.01
  prefetch: int = 2

  def __post_init__(self):
    one_of('data.crop', self.crop, ('center', 'random'))
    at_least('data.prefetch', self.prefetch, 1)
    require(
      0 <= self.max_bad_share <= 1,
      f'data.max_bad_share is {self.max_bad_share!r}; accepted: [0, 1]',
    )
    names = [task.name for task in self.tasks]
    require(
      len(set(names)) == len(names),
      f'data.tasks are named {names}; accepted: a name of its own for each',
    )
