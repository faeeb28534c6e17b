import numpy as np

from imagen_jax.data import inspection


def test_a_report_tells_counts_captions_and_bad_records(toy, eleven, tmp_path):
  examples = [toy.example(0, 8, 16), toy.example(1), toy.example(2, 4)]
  examples.append({**toy.example(3), 'image': b'bad'})
  path = toy.write(tmp_path / 'some', {'train': examples})
  config = toy.config(('a', path), ('b', eleven, 3.0))
  report = list(inspection.describe(config, scan=100, seconds=0))
  assert report == [
    'task a: 25.0% of the mixture',
    '  train: 4 records',
    '    captions: 2 distinct among 2 read, 2 to 2 words (mean 2.0)',
    '    pictures: 2 read, shorter side 8 to 8, longer side 8 to 16 pixels',
    'task b: 75.0% of the mixture',
    '  train: 11 records',
    '    captions: 33 distinct among 33 read, 3 to 3 words (mean 3.0)',
    '    pictures: 11 read, shorter side 8 to 8, longer side 8 to 8 pixels',
    '  heldout: 2 records',
    '    captions: 6 distinct among 6 read, 3 to 3 words (mean 3.0)',
    '    pictures: 2 read, shorter side 8 to 8, longer side 8 to 8 pixels',
    'bad records:\n  a: undecodable picture: 1 (k3)',
    'dropped records:\n  a: shorter side under 8 pixels: 1 of 4 (25.0%)',
  ]


def test_tokens_are_told_and_how_many_captions_are_cut(toy, twenty):
  config = toy.config(('a', twenty))  # With text.max_length 3.
  lengths = iter([[2] * 19 + [8], [1, 2, 3, 3, 4]])
  report = inspection.describe(
    config, scan=20, seconds=0, count=lambda captions: next(lengths)
  )
  assert [line for line in report if 'tokens' in line] == [
    (
      '    tokens: 2 to 8 (mean 2.3, 95% have at most 8), 5.0% over '
      'text.max_length (3) and cut'
    ),
    (
      '    tokens: 1 to 4 (mean 2.6, 95% have at most 4), 20.0% over '
      'text.max_length (3) and cut'
    ),
  ]


def test_one_task_of_a_mixture_is_taken_alone(toy, twenty, eleven):
  config = toy.config(('a', twenty), ('b', eleven, 3.0))
  alone = inspection.of_task(config, 'b')
  report = list(inspection.describe(alone, scan=1, seconds=0))
  assert report[0] == 'task b: 100.0% of the mixture'
  assert not any('task a' in line for line in report)


def test_a_split_without_usable_records_is_told(toy, tmp_path):
  path = toy.write(tmp_path / 'bad', {'train': [toy.example(0, 4)]})
  report = list(inspection.describe(toy.config(('a', path)), scan=9, seconds=0))
  assert report[2:] == [
    '    captions: none',
    '    pictures: none',
    'bad records: none',
    'dropped records:\n  a: shorter side under 8 pixels: 1 of 1 (100.0%)',
  ]


def test_reading_is_timed(toy, twenty):
  config = toy.config(('a', twenty))
  *_, bad, dropped, speed = inspection.describe(config, scan=3, seconds=0.01)
  assert bad == 'bad records: none'
  assert dropped == 'dropped records: none'
  assert speed.startswith('reading: ') and speed.endswith(' images/s')


def test_a_contact_sheet_shows_lowres_beside(toy, twenty):
  alone = inspection.contact_sheet(toy.config(('a', twenty)), num=3)
  beside = inspection.contact_sheet(
    toy.config(('a', twenty), lowres_size=4), num=3
  )
  for sheet in (alone, beside):
    pixels = np.asarray(sheet)
    assert pixels.ndim == 3 and pixels.std() > 10
  assert beside.width != alone.width
