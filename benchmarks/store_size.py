"""How large a store of embeddings becomes: the table of docs/text-store.md.

    python benchmarks/store_size.py
    python benchmarks/store_size.py --captions 12000000 --row 25:0.9

The first is of 860 million captions at the width of T5 XXL.
"""

import argparse

from imagen_jax.text import store_size


def table(captions, rows, embed_dim, max_length) -> list[str]:
  """Returns lines of Markdown.

  Args:
    captions: how many there are.
    rows: (tokens a caption, share that is distinct) of each line.
    embed_dim: width of an embedding.
    max_length: tokens that captions are cut to.
  """
  names = 'tokens a caption', 'distinct', 'padded bfloat16', 'ragged bfloat16'
  lines = [
    f'| {" | ".join((*names, "deduplicated", "int8"))} |',
    '| --- | --- | --- | --- | --- | --- |',
  ]
  for tokens, distinct in rows:
    found = store_size.sizes(
      captions,
      tokens=tokens,
      distinct=distinct,
      embed_dim=embed_dim,
      max_length=max_length,
    )
    sizes = (found.padded, found.ragged, found.deduplicated, found.int8)
    cells = [f'{tokens:g}', f'{distinct:.0%}', *map(_readable, sizes)]
    lines.append(f'| {" | ".join(cells)} |')
  return lines


def _readable(size):
  for unit, name in ((1e12, 'TB'), (1e9, 'GB')):
    if size >= 10 * unit:
      return f'{size / unit:,.0f} {name}'
  return f'{size / 1e9:.1f} GB'


def _row(text):
  tokens, distinct = map(float, text.split(':'))
  return tokens, distinct


def main(argv: list[str] | None = None):
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--captions', type=int, default=860_000_000)
  parser.add_argument('--embed-dim', type=int, default=4096)
  parser.add_argument('--max-length', type=int, default=128)
  parser.add_argument(
    '--row',
    type=_row,
    action='append',
    metavar='TOKENS:DISTINCT',
    help='tokens a caption, and the share of captions that is distinct',
  )
  args = parser.parse_args(argv)
  rows = args.row or [(21.2, 1.0), (27.3, 1.0), (27.3, 0.9), (27.3, 0.7)]
  lines = table(args.captions, rows, args.embed_dim, args.max_length)
  print('\n'.join(lines))


if __name__ == '__main__':
  main()
