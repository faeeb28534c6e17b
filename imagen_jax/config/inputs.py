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


# Where the records of a task may lie; docs/data.md says how each is read.
KINDS = ('tfds', 'arrayrecord', 'tfrecord', 'webdataset', 'parquet', 'folder')


@dataclasses.dataclass(frozen=True)
class FilterConfig:
  """A threshold on what the metadata of a record says.

  A record that says nothing of the field, or something else than is asked for,
  is dropped.

  Attributes:
    field: of the records; a column, a feature, or a member of the JSON.
    least: smallest number accepted; None is any.
    most: largest number accepted; None is any.
    accepted: texts accepted; none is any.
  """

  field: str
  least: float | None = None
  most: float | None = None
  accepted: tuple[str, ...] = ()

  def __post_init__(self):
    require(self.field, "filters have the field ''; accepted: a field's name")
    numbers = self.least is not None or self.most is not None
    require(
      numbers != bool(self.accepted),
      f'the filter of {self.field!r} has least {self.least}, most {self.most} '
      f'and accepted {list(self.accepted)}; accepted: either numbers or texts',
    )


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """One source of text-image pairs; becomes a seqio Task.

  Attributes:
    name: the Task's name.
    path: of 'tfds', the folder of a TFDS dataset in ArrayRecord form, as
      `imagen-jax data build` writes it; of 'folder', a folder of pictures with
      captions.jsonl, captions.csv, metadata.jsonl or metadata.csv, or such a
      file; of others, shards: a folder, or a pattern with braces and stars,
      such as 'gs://bucket/laion/{00000..41407}.tar'.
    rate: share of the mixture, relative to the other tasks.
    split: split to train on.
    kind: one of `KINDS`.
    image: name of the field that holds the encoded picture or, of 'folder',
      its file; empty takes the first of the usual names that a record has.
    captions: the same of the caption or captions.
    key: the same of the record's name.
    index: folder where `imagen-jax data index` keeps where records begin;
      empty is beside the data. TFDS datasets need none.
    heldout: how many records, the last ones, are split 'heldout' and not in
      'train'; 0 for TFDS datasets, which have splits of their own.
    min_side: pictures with a shorter side, in pixels, are dropped; those too
      small for the stage always are.
    max_aspect: pictures whose longer side is more than so many times the
      shorter one are dropped; None is any.
    min_caption: characters; shorter captions are not used.
    max_caption: longer ones are not used.
    clean_captions: take markup, addresses and the like out of captions; see
      `imagen_jax/data/captions.py`.
    filters: what the metadata must say.
  """

  name: str
  path: str
  rate: float = 1.0
  split: str = 'train'
  kind: str = 'tfds'
  image: str = ''
  captions: str = ''
  key: str = ''
  index: str = ''
  heldout: int = 0
  min_side: int = 1
  max_aspect: float | None = None
  min_caption: int = 1
  max_caption: int = 2000
  clean_captions: bool = False
  filters: tuple[FilterConfig, ...] = ()

  def __post_init__(self):
    field = f'data.tasks[{self.name}]'
    above_zero(f'{field}.rate', self.rate)
    one_of(f'{field}.kind', self.kind, KINDS)
    at_least(f'{field}.heldout', self.heldout, 0)
    at_least(f'{field}.min_side', self.min_side, 1)
    at_least(f'{field}.min_caption', self.min_caption, 1)
    require(
      self.min_caption <= self.max_caption <= 2000,
      f'{field}.max_caption is {self.max_caption}; accepted: min_caption '
      f'({self.min_caption}) to 2000',
    )
    if self.max_aspect is not None:
      at_least(f'{field}.max_aspect', self.max_aspect, 1)
    if self.kind == 'tfds':
      require(
        not self.index,
        f"{field}.index is {self.index!r} with kind 'tfds'; accepted: '', as "
        'such a dataset needs none',
      )
      require(
        not self.heldout,
        f"{field}.heldout is {self.heldout} with kind 'tfds'; accepted: 0, as "
        'such a dataset has splits of its own',
      )


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
    threads: of a host, that read and decode; None is half of the cores that it
      may use: reading is far cheaper than training, and where both run on the
      same cores, bursts of it should leave room.
    caption_choice: 'random' draws one of a record's captions each time; 'turns'
      takes the next one each epoch, so that in as many epochs as there are
      captions each comes once.
    dct_scaling: a JPEG is decoded at the smallest of 1/8, 1/4 and 1/2 whose
      shorter side has so many times the pixels that the stage takes. Larger is
      slower and nearer to the full picture; None decodes all in full.
  """

  tasks: tuple[TaskConfig, ...] = ()
  crop: str = 'center'
  max_bad_share: float = 0.01
  prefetch: int = 2
  threads: int | None = None
  caption_choice: str = 'random'
  dct_scaling: float | None = 1.5

  def __post_init__(self):
    if self.dct_scaling is not None:
      at_least('data.dct_scaling', self.dct_scaling, 1)
    one_of('data.caption_choice', self.caption_choice, ('random', 'turns'))
    one_of('data.crop', self.crop, ('center', 'random'))
    at_least('data.prefetch', self.prefetch, 1)
    if self.threads is not None:
      at_least('data.threads', self.threads, 1)
    require(
      0 <= self.max_bad_share <= 1,
      f'data.max_bad_share is {self.max_bad_share!r}; accepted: [0, 1]',
    )
    names = [task.name for task in self.tasks]
    require(
      len(set(names)) == len(names),
      f'data.tasks are named {names}; accepted: a name of its own for each',
    )
