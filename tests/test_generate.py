"""The chain of stages, from captions to files."""

import pathlib
import shutil

import jax
import numpy as np
from PIL import Image
import pytest
import sampled
from sampled import PROMPTS
from sampled import pixels

from imagen_jax import config as config_lib
from imagen_jax import export
from imagen_jax import generate
from imagen_jax import sharding
from imagen_jax import structs


@pytest.fixture(scope='module')
def cascade(exports):
  """Both stages, which share their compiled programs among tests."""
  stages = [export.load_weights(exports[row]) for row in ('base', 'sr')]
  mesh = sharding.make_mesh(config_lib.MeshConfig())
  return generate.Cascade(stages, mesh)


@pytest.fixture
def run(exports, tiny_encoder, tmp_path):
  """Samples into a folder of `tmp_path`; returns it and its lines."""

  def run(name, rows=('base',), **options):
    folders = [exports[row] for row in rows]
    return sampled.sample(folders, tmp_path / name, **options)

  return run


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
  # A batch of 8 is split over 8 devices as it is, the others are filled up.
  np.testing.assert_allclose(draw([0, 1, 2, 2, 2, 2, 2, 2]), whole, atol=1e-5)
  for row in range(3):
    np.testing.assert_allclose(draw([row])[0], whole[row], atol=1e-5)


@pytest.mark.parametrize('count', [1, 8, 9])
def test_devices_draw_as_few_pictures_as_can_be(
  count, cascade, tiny_encoder, monkeypatch
):
  drawn = []

  def draw(params, keys, text, lowres, weight):
    for given in (keys, text.embed, text.mask, weight):
      drawn.append({shard.data.shape[0] for shard in given.addressable_shards})
    return keys

  monkeypatch.setattr(cascade, '_draw', [draw, draw])
  prompts = [f'word {n}' for n in range(count)]
  encoded = tiny_encoder(cascade.text).encode(prompts)
  keys = generate._keys(0, prompts, [0] * count)
  found = cascade(keys, encoded, np.ones((2, count)))
  assert drawn == [{-(-count // 8)}] * 8
  assert (jax.random.key_data(found) != 0).any()
  assert found.shape == (count,)


def test_devices_may_share_a_picture(cascade, exports, tiny_encoder):
  stages = [export.load_weights(exports[row]) for row in ('base', 'sr')]
  layout = config_lib.MeshConfig(fsdp=4, height='fsdp')
  mesh = sharding.make_mesh(layout)
  shared = generate.Cascade(stages, mesh, layout)
  encoded = tiny_encoder(cascade.text).encode(PROMPTS[:2])
  keys, weights = generate._keys(0, PROMPTS[:2], [0, 0]), np.full((2, 2), 3.0)
  found = shared(keys, encoded, weights)
  np.testing.assert_allclose(found, cascade(keys, encoded, weights), atol=1e-4)


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
    found = np.asarray(jax.random.key_data(keys))[: len(PROMPTS)]
    seen.extend(map(tuple, found.tolist()))
    return keys

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


def test_all_that_is_asked_of_sampling_is_given_on(run, monkeypatch):
  asked = {
    'preset': 'fast',
    'settings': ['rho=3'],
    'steps': [5, 6],
    'sampler': 'heun',
    'strength': [0.5, 1],
    'resample': 2,
  }
  given = {}

  def take(stages, **options):
    given.update(options, names=[stage.stage.name for stage in stages])
    raise StopIteration

  monkeypatch.setattr(generate.sampling_settings, 'apply', take)
  with pytest.raises(StopIteration):
    run('out', rows=('base', 'sr'), **asked)
  names = ['tiny16', 'tiny32']
  assert given == {**asked, 'image': None, 'mask': None, 'names': names}


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


def test_a_stages_own_weight_of_one_is_known_as_it_is_compiled():
  """And not given as an array, which would ask the network twice."""
  seen = []

  def draw(params, keys, text, x, weight):
    seen.append(None if weight is None else np.asarray(weight).tolist())
    return np.zeros((8, 4, 4, 3))

  cascade = object.__new__(generate.Cascade)
  cascade._params, cascade._draw = [None], [draw]
  cascade._layout = config_lib.MeshConfig()
  cascade._mesh = sharding.make_mesh(cascade._layout)
  keys = jax.random.split(jax.random.key(0), 8)
  text = structs.TextCond(np.zeros((8, 2, 3)), np.ones((8, 2), bool))
  mixed = [1.0] * 7 + [2.0]
  for own, weights in ((1.0, [1.0] * 8), (1.0, mixed), (7.5, [1.0] * 8)):
    sample = config_lib.SampleConfig(guidance_weight=own)
    cascade.stages = [config_lib.StageConfig(sample=sample)]
    assert cascade(keys, text, [np.array(weights)]).shape == (8, 4, 4, 3)
  assert seen == [None, mixed, [1.0] * 8]
