"""Pictures from captions: text encoder, cascade, files."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import operator

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import tqdm

from imagen_jax import cascade
from imagen_jax import config
from imagen_jax import editing
from imagen_jax import export
from imagen_jax import grid
from imagen_jax import sampling_settings
from imagen_jax import sharding
from imagen_jax import storage
from imagen_jax import structs
from imagen_jax.text import agreement
from imagen_jax.text import encoder as encoder_lib
from imagen_jax.train import state as state_lib

SAMPLES_FILE = 'samples.jsonl'
_GRID_ROWS = 64


class Cascade:
  """Exported stages, ready to sample; each is compiled once a batch size.

  Args:
    stages: from `export.load_weights`, the base first.
    mesh: images of a batch are split over it; parameters are whole on each
      device.
    layout: its `MeshConfig`, which may split each image too; None does not.

  Raises:
    ValueError: where a stage does not take what the one before it makes, or
      the stages were trained with different text encoders.
  """

  def __init__(self, stages: list[export.Stage], mesh, layout=None):
    cascade.check_stages([stage.stage for stage in stages])
    agreement.check_stages(stages)
    self.stages = [stage.stage for stage in stages]
    self.text = stages[0].text
    self._mesh, self._layout = mesh, layout or config.MeshConfig()
    whole = sharding.replicated(mesh)
    self._params = [jax.device_put(stage.params, whole) for stage in stages]
    self._draw = [
      jax.jit(functools.partial(_draw, stage)) for stage in self.stages
    ]

  def __call__(
    self, keys, text: structs.TextCond, guidance_weights, edits=None
  ):
    """Images of the last stage, [B, H, W, 3] in [-1, 1].

    Args:
      keys: a PRNG key an image, [B].
      text: B captions, encoded.
      guidance_weights: a [B] array a stage.
      edits: a `structs.Edit` a stage, of one picture, for all of the batch to
        start from; None to start from noise.
    """
    count = keys.shape[0]
    shards = sharding.num_batch_shards(self._mesh, self._layout)
    # The last image again, where the devices cannot share them evenly: each
    # device would draw them all.
    rows = np.minimum(np.arange(-(-count // shards) * shards), count - 1)
    spec = sharding.batch_spec(self._layout)
    place = jax.sharding.NamedSharding(self._mesh, spec)
    put = functools.partial(jax.device_put, device=place)
    keys, text = put(keys[rows]), put(jax.tree.map(lambda x: x[rows], text))
    x = None
    for number, draw in enumerate(self._draw):
      own = self.stages[number].sample.guidance_weight
      # A key of its own a stage: the same noise twice would correlate them.
      keys_here = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
      weight = np.asarray(guidance_weights[number], np.float32)[rows]
      # A stage's own weight of 1 is known as it is compiled: half the work.
      plain = own == 1 and np.all(weight == 1)
      weight = None if plain else put(weight)
      edit = ()
      if edits is not None:
        every = lambda a: np.broadcast_to(a, (len(rows), *a.shape))
        edit = (put(jax.tree.map(every, edits[number])),)
      with self._placed():
        x = draw(self._params[number], keys_here, text, x, weight, *edit)
    return x[:count]

  def _placed(self):
    # Where no image is split, nothing need be asked of the network.
    if self._layout.height == self._layout.width == 'none':
      return contextlib.nullcontext()
    return sharding.use_mesh(self._mesh, self._layout)


def _draw(stage, params, keys, text, lowres, guidance_weight, edit=None):
  network = state_lib.make_network(stage)
  apply = lambda *inputs: network.apply({'params': params}, *inputs)
  return cascade.sample_stage(
    apply, keys, text, lowres, stage, guidance_weight, edit
  )


def generate(
  weights: list[str],
  prompts: list[str],
  out: str,
  *,
  num: int,
  guidance_weights: list,
  steps: list[int] | None,
  sampler: str | None,
  seed: int,
  batch_size: int,
  text_checkpoint: str | None,
  text_vocabulary: str | None = None,
  devices_per_image: int = 1,
  preset: str | None = None,
  settings: list[str] = (),
  image: str | None = None,
  mask: str | None = None,
  strength: list[float] | None = None,
  resample: int | None = None,
):
  """Samples pictures of `prompts` and writes them to the folder `out`.

  Args:
    weights: folders of exported stages, the base first.
    prompts: captions.
    out: gets a PNG a picture, `samples.jsonl` and `grid.png`.
    num: pictures a prompt and guidance weight.
    guidance_weights: of each column: a number a stage, or None for the
      stages' own.
    steps: of each stage; None for the stages' own.
    sampler: of all stages; None for the stages' own. 'heun' takes Karras's
      steps in the place of steps by time, where `settings` have no spacing.
    seed: of the noise.
    batch_size: pictures drawn at once.
    text_checkpoint: in place of the config's; the same weights, elsewhere.
    text_vocabulary: in place of the config's, likewise.
    devices_per_image: devices that share a picture, each a band of its rows.
    preset: of `presets`; None for the stages' own settings.
    settings: more settings of sampling, '[STAGE.]FIELD=VALUE', each in place of
      the preset's; `steps` and `sampler` are in place of both.
    image: path of a picture to start from.
    mask: path of a picture that is white where `image` is painted anew.
    strength: share of the steps that is taken from `image`, of each stage;
      None for the stages' own, or without a mask, where that is all, for 0.6.
    resample: times that each step is taken under a mask; None for the
      stages' own.

  Raises:
    ValueError: where the stages do not fit each other, the text encoder, or
      what was set; or a picture cannot be used.
  """
  pictures = editing.open_pictures(image, mask) if image else None
  stages = [export.load_weights(folder) for folder in weights]
  stages = sampling_settings.apply(
    stages,
    preset=preset,
    settings=settings,
    steps=steps,
    sampler=sampler,
    image=image,
    mask=mask,
    strength=strength,
    resample=resample,
  )
  # Now, and not after an hour of sampling, does one learn that it cannot be.
  storage.check_writable(out, '--out')
  out = storage.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  layout = config.MeshConfig()
  if devices_per_image > 1:
    if jax.device_count() % devices_per_image:
      raise ValueError(
        f'--devices-per-image is {devices_per_image} on {jax.device_count()} '
        'devices; accepted: a divisor of these'
      )
    layout = config.MeshConfig(fsdp=devices_per_image, height='fsdp')
  draw = Cascade(stages, sharding.make_mesh(layout), layout)
  text_config = draw.text
  if text_checkpoint:
    text_config = dataclasses.replace(text_config, checkpoint=text_checkpoint)
  if text_vocabulary:
    text_config = dataclasses.replace(text_config, vocabulary=text_vocabulary)
  agreement.check_encoder(text_config, stages)
  # Its weights are sharded, as the largest encoders do not fit one chip.
  whole = config.MeshConfig(data=1, fsdp=-1)
  mesh = sharding.make_mesh(whole) if jax.device_count() > 1 else None
  encoded = encoder_lib.TextEncoder(text_config, mesh).encode(prompts)
  encoded = jax.tree.map(np.asarray, encoded)

  edits = pictures and [
    editing.edit_of(*pictures, stage.output_size) for stage in draw.stages
  ]
  own = [stage.sample.guidance_weight for stage in draw.stages]
  guidance_weights = [weight or own for weight in guidance_weights]
  # A row a picture: its prompt, its number, and its column of the grid.
  todo = [
    (prompt, number, column)
    for prompt in range(len(prompts))
    for number in range(num)
    for column in range(len(guidance_weights))
  ]
  # More rows than a person looks at make a file that nothing opens.
  num_shown = min(len(todo), _GRID_ROWS * len(guidance_weights))
  shown = []
  with (
    (out / SAMPLES_FILE).open('w') as lines,
    tqdm.tqdm(total=len(todo), desc='sample', unit='picture') as bar,
  ):
    for start in range(0, len(todo), batch_size):
      part = todo[start : start + batch_size]
      # The last batch is filled up: one shape, one compilation.
      rows = part + [part[-1]] * (min(batch_size, len(todo)) - len(part))
      prompt, number, column = np.array(rows).T
      x = draw(
        _keys(seed, [prompts[i] for i in prompt], number),
        jax.tree.map(operator.itemgetter(prompt), encoded),
        np.array(guidance_weights, np.float32)[column].T,
        edits,
      )
      x = np.asarray(jnp.round((x[: len(part)] + 1) * 127.5)).astype(np.uint8)
      for picture, (prompt, number, column) in zip(x, part):
        line = {
          'file': f'{prompt:05d}_{number:02d}_w{column}.png',
          'prompt': prompts[prompt],
          'guidance_weight': guidance_weights[column],
          'seed': seed,
          'number': number,
        }
        _write_png(out / line['file'], Image.fromarray(picture))
        lines.write(json.dumps(line) + '\n')
      lines.flush()  # What is drawn is listed, also after a Ctrl-C.
      shown += list(x[: num_shown - len(shown)])
      bar.update(len(part))
  labels = [prompts[prompt] for prompt, _, _ in todo[:num_shown]]
  _write_png(out / 'grid.png', _grid(shown, labels, guidance_weights))
  print(f'{len(todo)} pictures, {SAMPLES_FILE} and grid.png in {out}')


def _keys(seed, prompts, numbers):
  """A key a picture, from the seed, the prompt's words and its number.

  A column is left out, so that a row of the grid has the same noise; so is
  the place in the list, so that a prompt may be drawn again alone.
  """

  def key(prompt, number):
    digest = hashlib.sha256(prompt.encode()).digest()
    word = int.from_bytes(digest[:4], 'little')
    key = jax.random.fold_in(jax.random.key(seed), word)
    return jax.random.fold_in(key, number)

  return jnp.stack([key(p, int(n)) for p, n in zip(prompts, numbers)])


def _write_png(path, image):
  with path.open('wb') as file:
    image.save(file, 'PNG')


def _grid(pictures, labels, guidance_weights):
  """A sheet of `pictures`, a column a guidance weight where there are some."""
  if len(guidance_weights) == 1:
    return grid.grid(pictures, labels, columns=min(8, len(pictures)))
  titles = [
    # One number where all stages have the same.
    'guidance ' + ', '.join(f'{w:g}' for w in dict.fromkeys(weight))
    for weight in guidance_weights
  ]
  return grid.grid(pictures, labels, columns=len(titles), column_titles=titles)
