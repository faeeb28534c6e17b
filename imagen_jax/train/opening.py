"""What a run reads besides its pictures: the embeddings of its captions."""

from imagen_jax.data import tasks as tasks_lib
from imagen_jax.text import store as store_lib


def open_store(config):
  """The store of embeddings, which fits the config and its data.

  Raises:
    ValueError: where it does not, or captions are known to be missing.
  """
  store = store_lib.EmbeddingStore(config.text.store)
  store.check(config.text)
  store.check_covers(tasks_lib.captions(config))
  return store
