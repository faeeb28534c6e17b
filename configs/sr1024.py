r"""The 256 to 1024 super-resolution stage: paper, appendices B.1 and F.3.

Trained on 64 to 256 pixel crops of 1024-pixel pictures, then run on whole
ones (section 2.5): it has no self-attention, only attention over text. Global
batch 2048, 2.5M steps; the paper used 128 TPU v4 chips.

    imagen-jax train --config configs/sr1024.py --workdir gs://BUCKET/sr1024 \
        --set text.store=gs://BUCKET/text \
        --set data.tasks.pairs.path=gs://BUCKET/pairs

A picture's shorter side is shrunk to 1024 pixels, and a square of 256 is cut
out anywhere; the low-res input is the 64-pixel downsample of that square.
Smaller pictures are left out, and counted (`dropped_share` of the metrics). The
paper does not say how crops are chosen. Behind sr256,

    imagen-jax sample --weights base64 sr256 sr1024 --devices-per-image 4 ...

makes whole pictures of 1024 pixels.

The net is literally the printed dictionary's; the row `five_level` is the other
reading, and `whole` is the printed one trained on whole pictures.

Not trained here yet.
"""

from imagen_jax import config

ROWS = {
  # The four blocks of the printed dictionary, which is what is shipped.
  'printed': {},
  # Five levels, as other readers have it: one more of 1024 channels, with
  # attention in the last two. Further from the paper's rounded total.
  'five_level': {
    'stage.unet.channels': '[128, 256, 512, 1024, 1024]',
    'stage.unet.num_res_blocks': '[2, 4, 8, 8, 8]',
    'stage.unet.self_attention': '[false, false, false, false, false]',
    'stage.unet.text_attention': '[false, false, false, true, true]',
  },
  # Trained on whole pictures, as to finish what crops have begun: its norms
  # then see what they see in sampling. One does not fit on a chip, so eight
  # share it, each a band of its rows. The parameters are the crops'.
  'whole': {
    'stage.image_size': '1024',
    'stage.lowres_size': '256',
    'stage.whole_size': 'none',
    'mesh.height': 'fsdp',
    'stage.unet.remat_policy': '["full"]',  # 18 GiB of activations a picture.
    'train.batch_size': '256',
  },
}
PAPER_PARAMETERS = {
  'printed': 400_000_000,
  'five_level': 400_000_000,
  'whole': 400_000_000,
}


def get_config(row: str = 'printed') -> config.Config:
  """Returns the config of one of `ROWS`."""
  printed = config.Config(
    stage=config.StageConfig(
      name='sr1024',
      image_size=256,
      lowres_size=64,
      unet=config.UNetConfig(
        design='efficient',
        channels=(128, 256, 512, 1024),
        num_res_blocks=(2, 4, 8, 8),
        self_attention=(False, False, False, False),
        text_attention=(False, False, False, True),
        head_dim=256,
        attention_expansion=2,
        embed_dim=512,
        shortcut='always',  # As drawn (appendix B.1).
        # An eighth of the operations of a step less (docs/performance.md).
        remat_policy=('none',),
      ),
      diffusion=config.DiffusionConfig(schedule='linear'),
      sample=config.SampleConfig(
        num_steps=64, guidance_weight=4.0, aug_level=0.1
      ),
      whole_size=1024,
    ),
    data=config.DataConfig(
      tasks=(config.TaskConfig('pairs', path=''),), crop='random'
    ),
    optimizer=config.OptimizerConfig(name='adam', stacked=True),
    mesh=config.MeshConfig(data=-1, fsdp=8),
    train=config.TrainConfig(eval_every=5000),
  )
  return config.override(printed, [f'{k}={v}' for k, v in ROWS[row].items()])
