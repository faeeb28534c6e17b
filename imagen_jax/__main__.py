"""`python -m imagen_jax` is `imagen-jax`."""

import sys

from imagen_jax.cli import main

if __name__ == '__main__':
  sys.exit(main.main())
