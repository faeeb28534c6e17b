"""The chain of stages, from captions to files."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from imagen_jax import config as config_lib
from imagen_jax import export
from imagen_jax import generate
from imagen_jax import sharding
from imagen_jax import structs
from imagen_jax.diffusion import process
from imagen_jax.train import checkpoint
from imagen_jax.train import state as state_lib

PROMPTS = ['a red circle', 'two blue squares', 'a large green star']


@pytest.fixture(scope='module')
def cascade(exports):
  """Both stages, which share their compiled programs among tests."""
  stages = [export.load_weights(exports[row]) for row in ('base', 'sr')]
  mesh = sharding.make_mesh(config_lib.MeshConfig())
  return generate.Cascade(stages, mesh)


@pytest.fixture
def run(exports, tiny_encoder, tmp_path):
  """Samples into a folder of `tmp_path`; returns it and its lines."""

  def run(name, prompts=PROMPTS, rows=('base',), **options):
    options = {
      'num': 1,
      'guidance_weights': [None],
      'steps': None,
      'sampler': None,
      'seed': 0,
      'batch_size': 8,
      'text_checkpoint': None,
      **options,
    }
    out = tmp_path / name
    folders = [exports[row] for row in rows]
    generate.generate(folders, prompts, str(out), **options)
    lines = (out / 'samples.jsonl').read_text().splitlines()
    return out, [json.loads(line) for line in lines]

  return run


def pixels(out, line):
  with Image.open(out / line['file']) as image:
    return np.asarray(image).astype(int)


def test_two_stages_make_a_labelled_grid(run):
  out, lines = run('out', rows=('base', 'sr'), guidance_weights=[[1, 1], None])
  assert [(line['prompt'], line['guidance_weight']) for line in lines] == [
    (prompt, weight) for prompt in PROMPTS for weight in ([1, 1], [2.0, 2.0])
  ]
  assert all(pixels(out, line).shape == (32, 32, 3) for line in lines)
  assert len({pixels(out, line).tobytes() for line in lines}) == 6
  with Image.open(out / 'grid.png') as sheet:
    width, height = sheet.size
  assert width >= 2 * 96
  assert height >= 3 * 96


def test_a_picture_depends_on_seed_prompt_and_number_alone(run):
  out, lines = run('all', num=2)
  alone, again = run('alone', prompts=PROMPTS[1:2], num=2, batch_size=1)
  other, changed = run('other', prompts=PROMPTS[1:2], num=2, seed=1)
  for number in range(2):
    picture = pixels(out, lines[2 + number])
    assert lines[2 + number]['number'] == number
    # To the rounding of a byte.
    assert abs(pixels(alone, again[number]) - picture).max() <= 1
    assert abs(pixels(other, changed[number]) - picture).max() > 8
  assert abs(pixels(out, lines[2]) - pixels(out, lines[3])).max() > 8


def test_the_batch_size_changes_nothing(cascade, tiny_encoder):
  encoded = tiny_encoder(cascade.text).encode(PROMPTS)
  keys = generate._keys(0, PROMPTS, [0, 0, 0])

  def draw(rows):
    rows = np.array(rows)
    weights = np.full((2, len(rows)), 3.0)
    text = jax.tree.map(lambda x: x[rows], encoded)
    return np.asarray(cascade(keys[rows], text, weights))[:3]

  whole = draw([0, 1, 2])
  assert whole.shape == (3, 32, 32, 3)
  assert abs(whole).max() <= 1
  assert whole.std() > 0.05
  # A batch of 8 is split over 8 devices, the others are not.
  np.testing.assert_allclose(draw([0, 1, 2, 2, 2, 2, 2, 2]), whole, atol=1e-5)
  for row in range(3):
    np.testing.assert_allclose(draw([row])[0], whole[row], atol=1e-5)


def test_devices_may_share_a_picture(cascade, exports, tiny_encoder):
  stages = [export.load_weights(exports[row]) for row in ('base', 'sr')]
  layout = config_lib.MeshConfig(fsdp=4, height='fsdp')
  mesh = sharding.make_mesh(layout)
  shared = generate.Cascade(stages, mesh, layout)
  encoded = tiny_encoder(cascade.text).encode(PROMPTS[:2])
  keys, weights = generate._keys(0, PROMPTS[:2], [0, 0]), np.full((2, 2), 3.0)
  found = shared(keys, encoded, weights)
  np.testing.assert_allclose(found, cascade(keys, encoded, weights), atol=1e-4)


@pytest.fixture(scope='module')
def crops(exports, tmp_path_factory):
  """A stage trained on 32-pixel crops of 64-pixel pictures, exported."""
  folder = tmp_path_factory.mktemp('crops')
  sr = config_lib.from_json(
    (pathlib.Path(exports['sr']) / 'config.json').read_text()
  )
  unet = dataclasses.replace(sr.stage.unet, design='efficient')
  # Static, so that the estimate of a single step can be told by hand.
  sample = dataclasses.replace(sr.stage.sample, num_steps=1, threshold='static')
  stage = dataclasses.replace(
    sr.stage,
    name='tiny64',
    image_size=32,
    lowres_size=16,
    whole_size=64,
    unet=unet,
    sample=sample,
  )
  cfg = dataclasses.replace(sr, stage=stage)
  shapes = sharding.unbox(state_lib.abstract_params(cfg))
  rng = np.random.default_rng(5)
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(0, 0.2, s.shape), s.dtype), shapes
  )
  with checkpoint.Checkpointer(str(folder / 'run')) as checkpointer:
    state = state_lib.TrainState(jnp.int32(1), params, params, ())
    identity = export.load_weights(exports['sr']).text_identity
    checkpointer.save(state, {}, cfg, identity)
  export.export_weights(str(folder / 'run'), str(folder / 'out'))
  return str(folder / 'out')


@pytest.fixture(scope='module')
def three(exports, crops):
  return [
    export.load_weights(f) for f in (exports['base'], exports['sr'], crops)
  ]


def drawn(stages, layout, tiny_encoder, count=2):
  cascade = generate.Cascade(stages, sharding.make_mesh(layout), layout)
  prompts = PROMPTS[:count]
  encoded = tiny_encoder(cascade.text).encode(prompts)
  keys = generate._keys(0, prompts, [0] * count)
  weights = np.full((len(stages), count), 3.0)
  # A key is for one use, but what is drawn is drawn again by hand.
  found = cascade(jax.random.clone(keys), encoded, weights)
  return np.asarray(found), keys, encoded


def test_a_stage_trained_on_crops_makes_whole_pictures(three, tiny_encoder):
  """By one call of its network on the whole, told by hand."""
  layout = config_lib.MeshConfig()
  found, keys, text = drawn(three, layout, tiny_encoder)
  assert found.shape == (2, 64, 64, 3)
  lowres, _, _ = drawn(three[:2], layout, tiny_encoder)
  assert lowres.shape == (2, 32, 32, 3)

  stage, params = three[2].stage, three[2].params
  network = state_lib.make_network(stage)
  shape = (64, 64, 3)

  def draw(key):
    noise, aug = jax.random.split(jax.random.fold_in(key, 2))
    z = jax.random.normal(jax.random.fold_in(noise, 0), shape)
    return z, jax.random.normal(aug, shape)

  z, eps = jax.vmap(draw)(keys)
  level = np.float32(-2 * np.log(np.tan(np.pi / 2 * stage.sample.aug_level)))
  large = jax.image.resize(lowres, z.shape, 'bilinear')
  cond = structs.Cond(
    text,
    lowres=process.diffuse(large, eps, jnp.full(2, level)),
    aug_logsnr=jnp.full(2, level),
  )
  logsnr = jnp.full(2, stage.diffusion.logsnr_min)
  with_text, without = (
    network.apply({'params': params}, z, logsnr, given)
    for given in (cond, cond.replace(text=jax.tree.map(jnp.zeros_like, text)))
  )
  v = without + 3 * (with_text - without)
  alpha, sigma = process.alpha_sigma(logsnr[0])
  expected = jnp.clip(alpha * z - sigma * v, -1, 1)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert found.std() > 0.1 and abs(found[0] - found[1]).max() > 0.1


@pytest.mark.parametrize('devices', [2, 4])
def test_devices_may_share_a_whole_picture(devices, three, tiny_encoder):
  alone, _, _ = drawn(three, config_lib.MeshConfig(), tiny_encoder)
  layout = config_lib.MeshConfig(data=-1, fsdp=devices, height='fsdp')
  found, _, _ = drawn(three, layout, tiny_encoder)
  np.testing.assert_allclose(found, alone, atol=1e-4)


def test_a_stage_trained_on_crops_is_for_its_place(three):
  mesh = sharding.make_mesh(config_lib.MeshConfig())
  words = "stage 'tiny64' takes 32 where the stage before it makes 16"
  with pytest.raises(ValueError, match=words):
    generate.Cascade([three[0], three[2]], mesh)


def test_three_stages_from_files_to_files(
  run, exports, crops, monkeypatch, tmp_path
):
  """From a picture, half of which is kept: at the whole's size."""
  monkeypatch.setitem(exports, 'crops', crops)
  whole = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(whole).save(tmp_path / 'image.png')
  mask = np.zeros((64, 64), np.uint8)
  mask[:, 32:] = 255
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  out, lines = run(
    'out',
    rows=('base', 'sr', 'crops'),
    devices_per_image=2,
    num=4,
    image=str(tmp_path / 'image.png'),
    mask=str(tmp_path / 'mask.png'),
    strength=[1, 1, 1],
  )
  assert len(lines) == 12
  for line in lines:
    assert abs(pixels(out, line)[:, :32] - whole[:, :32]).max() <= 1


def test_weights_of_guidance_are_per_picture(cascade, tiny_encoder):
  encoded = tiny_encoder(cascade.text).encode(PROMPTS[:1] * 3)
  keys = generate._keys(0, PROMPTS[:1] * 3, [0, 0, 0])
  weights = np.array([[1, 1, 4], [1, 4, 4]])
  first, second, third = np.asarray(cascade(keys, encoded, weights))
  assert abs(first - second).max() > 1e-3
  assert abs(second - third).max() > 1e-3


def test_stages_have_noise_of_their_own(cascade, tiny_encoder, monkeypatch):
  seen = []

  def draw(params, keys, text, lowres, weight):
    seen.extend(map(tuple, np.asarray(jax.random.key_data(keys)).tolist()))

  monkeypatch.setattr(cascade, '_draw', [draw, draw])
  keys = generate._keys(0, PROMPTS, [0, 0, 0])
  cascade(keys, tiny_encoder(cascade.text).encode(PROMPTS), np.ones((2, 3)))
  assert len(set(seen)) == len(seen) == 6


def test_settings_of_sampling_reach_the_stages(run):
  _, _ = run('own')
  out, lines = run('own')
  more, changed = run('more', steps=[5])
  noisy, ancestral = run('noisy', sampler='ancestral')
  picture = pixels(out, lines[0])
  assert abs(pixels(more, changed[0]) - picture).max() > 8
  assert abs(pixels(noisy, ancestral[0]) - picture).max() > 8


def test_zero_is_a_weight_of_guidance(run):
  _, lines = run('zero', prompts=PROMPTS[:1], guidance_weights=[[0.0]])
  assert lines[0]['guidance_weight'] == [0.0]


@pytest.mark.parametrize(
  'rows, words',
  [
    (('sr',), "stage 'tiny32' takes 16 where the stage before it makes none"),
    (('base', 'base'), "stage 'tiny16' takes no image where the stage before"),
    (('sr', 'base'), 'accepted: a base stage, then super-resolution'),
  ],
)
def test_stages_out_of_order_are_refused(rows, words, run):
  with pytest.raises(ValueError, match=words):
    run('out', rows=rows)


def test_stages_of_two_text_encoders_are_refused(exports):
  base, sr = (export.load_weights(exports[row]) for row in ('base', 'sr'))
  text = generate.dataclasses.replace(sr.text, max_length=7)
  other = generate.dataclasses.replace(sr, text=text)
  mesh = sharding.make_mesh(config_lib.MeshConfig())
  words = r"stage 'tiny32' has another text.max_length \(7\) than the stages"
  with pytest.raises(ValueError, match=words):
    generate.Cascade([base, other], mesh)


def test_another_place_of_the_text_encoder(
  run, tiny, monkeypatch, tmp_path, caplog
):
  """The same weights and vocabulary, elsewhere; no other ones."""
  text = config_lib.load(tiny).text
  shutil.copytree(text.checkpoint, tmp_path / 'moved')
  shutil.copy(text.vocabulary, tmp_path / 'moved.json')
  places = [str(tmp_path / name) for name in ('moved', 'moved.json')]
  seen = []
  encoder = generate.encoder_lib.TextEncoder

  def make(text, mesh):
    assert mesh.shape['fsdp'] == len(jax.devices())
    seen.append([text.checkpoint, text.vocabulary])
    return encoder(text, mesh)

  monkeypatch.setattr(generate.encoder_lib, 'TextEncoder', make)
  options = dict(zip(('text_checkpoint', 'text_vocabulary'), places))
  run('out', prompts=PROMPTS[:1], rows=('base', 'sr'), **options)
  assert seen == [places]
  assert not caplog.records

  other = str(pathlib.Path(text.checkpoint).parent / 't5_1_1_bf16')
  words = "t5_1_1_bf16 is not the text encoder that stage 'tiny16' was trained"
  with pytest.raises(ValueError, match=words):
    run('other', text_checkpoint=other)
  assert len(seen) == 1


def test_a_folder_that_cannot_be_is_refused_first(run, tmp_path, monkeypatch):
  monkeypatch.setattr(generate, 'Cascade', None)
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='file'):
    run('file')


def test_a_grid_of_many_pictures_stays_small(run, monkeypatch):
  monkeypatch.setattr(generate, '_GRID_ROWS', 2)
  shown = []
  monkeypatch.setattr(
    generate.grid,
    'grid',
    lambda pictures, labels, **_: (
      shown.append((len(pictures), labels)) or Image.new('RGB', (1, 1))
    ),
  )
  _, lines = run('out', num=3, batch_size=2)
  assert len(lines) == 9
  assert shown == [(2, [PROMPTS[0]] * 2)]


def sampled_with(monkeypatch):
  """The sampling settings of the stages that a run would compile."""
  found = []

  class Stop(Exception):
    pass

  def take(stages, mesh, layout):
    found.extend(stage.stage.sample for stage in stages)
    raise Stop

  monkeypatch.setattr(generate, 'Cascade', take)
  return found, Stop


@pytest.mark.parametrize(
  'options, expected',
  [
    ({}, [('ddim', 2, 'time')] * 2),
    (
      {'preset': 'reference'},
      [('ancestral', 256, 'time'), ('ancestral', 128, 'time')],
    ),
    (
      {'preset': 'reference', 'steps': [5, 6], 'sampler': 'heun'},
      [('heun', 5, 'karras'), ('heun', 6, 'karras')],
    ),
    ({'sampler': 'heun'}, [('heun', 2, 'karras')] * 2),
    (
      {'sampler': 'heun', 'settings': ['tiny32.spacing=logsnr']},
      [('heun', 2, 'karras'), ('heun', 2, 'logsnr')],
    ),
    (
      {'preset': 'reference', 'settings': ['num_steps=9', 'spacing=karras']},
      [('ancestral', 9, 'karras')] * 2,
    ),
    (
      {'settings': ['num_steps=9', 'tiny32.num_steps=7'], 'steps': None},
      [('ddim', 9, 'time'), ('ddim', 7, 'time')],
    ),
  ],
)
def test_presets_settings_and_flags_in_this_order(
  options, expected, run, monkeypatch
):
  found, stop = sampled_with(monkeypatch)
  with pytest.raises(stop):
    run('out', rows=('base', 'sr'), **options)
  settings = [(s.sampler, s.num_steps, s.spacing) for s in found]
  assert settings == expected


@pytest.mark.parametrize('share, height', [(1, 'none'), (4, 'fsdp')])
def test_devices_share_a_picture_by_its_rows(share, height, run, monkeypatch):
  found = []

  def take(stages, mesh, layout):
    found.extend([mesh.shape['fsdp'], layout.height])
    raise StopIteration

  monkeypatch.setattr(generate, 'Cascade', take)
  with pytest.raises(StopIteration):
    run('out', rows=('base',), devices_per_image=share)
  assert found == [share, height]


@pytest.fixture
def picture(tmp_path):
  """Options of a picture to start from, and of one with a mask."""
  for name in ('image.png', 'mask.png'):
    Image.new('L', (32, 32), 255).save(tmp_path / name)
  image = {'image': str(tmp_path / 'image.png')}
  return {'image': image, 'mask': {**image, 'mask': str(tmp_path / 'mask.png')}}


@pytest.mark.parametrize(
  'which, options, expected',
  [
    ('image', {}, [(0.6, 1)] * 2),
    ('image', {'settings': ['strength=0.3']}, [(0.3, 1)] * 2),
    ('image', {'settings': ['tiny32.strength=1']}, [(0.6, 1), (1, 1)]),
    (
      'image',
      {'settings': ['strength=0.3'], 'strength': [0.7, 0.8]},
      [(0.7, 1), (0.8, 1)],
    ),
    ('mask', {}, [(1, 1)] * 2),
    ('mask', {'settings': ['resample=8', 'strength=0.5']}, [(0.5, 8)] * 2),
    ('mask', {'settings': ['resample=8'], 'resample': 2}, [(1, 2)] * 2),
  ],
)
def test_settings_of_a_picture_to_start_from(
  which, options, expected, picture, run, monkeypatch
):
  found, stop = sampled_with(monkeypatch)
  with pytest.raises(stop):
    run('out', rows=('base', 'sr'), **picture[which], **options)
  assert [(s.strength, s.resample) for s in found] == expected


@pytest.mark.parametrize(
  'which, setting, words',
  [
    (None, 'strength=0.5', '--set strength is 0.5 without --init-image; acc'),
    ('image', 'resample=4', '--set resample is 4 without --mask; accepted'),
    ('image', 'tiny32.resample_jump=2', '--set resample_jump is 2 without --m'),
    ('image', 'strength=1', 'strength is 1 of every stage without --mask: no'),
  ],
)
def test_settings_that_could_not_tell_are_refused(
  which, setting, words, picture, run
):
  options = picture[which] if which else {}
  with pytest.raises(ValueError, match=words):
    run('out', rows=('base', 'sr'), settings=[setting], **options)


@pytest.mark.parametrize(
  'setting, words',
  [
    ('spacing', "--set is 'spacing'; accepted: FIELD=VALUE, or STAGE.FIELD"),
    ('big.rho=1', "--set is 'big.rho=1'; .* STAGE of tiny16, tiny32"),
    ('spacings=x', 'spacings: no such field; did you mean .*spacing?'),
    ('spacing=even', "stage.sample.spacing is 'even'; accepted: 'time'"),
    (
      'sampler=heun',
      "spacing is 'time' with .*sampler 'heun'; accepted: 'karras', 'logsnr'",
    ),
    ('rho=many', '--set stage.sample.rho=many: accepted: float'),
  ],
)
def test_settings_that_are_none_are_refused(setting, words, run):
  with pytest.raises(ValueError, match=words):
    run('out', rows=('base', 'sr'), settings=[setting])


def test_a_picture_is_kept_outside_of_the_mask(run, tmp_path):
  """Through both stages, and only inside does the prompt count."""
  rng = np.random.default_rng(0)
  whole = rng.integers(0, 255, (32, 32, 3), np.uint8)
  Image.fromarray(whole).save(tmp_path / 'image.png')
  mask = np.zeros((32, 32), np.uint8)
  mask[:, 16:] = 255
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  options = {'image': str(tmp_path / 'image.png'), 'rows': ('base', 'sr')}
  out, lines = run(
    'in',
    mask=str(tmp_path / 'mask.png'),
    strength=[1, 1],
    resample=2,
    **options,
  )
  pictures = [pixels(out, line) for line in lines]
  for picture in pictures:
    assert abs(picture[:, :16] - whole[:, :16]).max() <= 1
  assert abs(pictures[0] - pictures[1])[:, 16:].max() > 8


def test_a_picture_to_start_from_leaves_its_trace(run, tmp_path):
  Image.new('RGB', (16, 16), (250, 10, 10)).save(tmp_path / 'image.png')
  options = {'steps': [8], 'image': str(tmp_path / 'image.png')}
  red = np.array([250, 10, 10])
  off = []
  for strength in (0.125, 0.9):
    out, lines = run(f'out{strength}', strength=[strength], **options)
    off.append(np.mean([abs(pixels(out, line) - red).mean() for line in lines]))
  assert off[0] < 0.8 * off[1]
