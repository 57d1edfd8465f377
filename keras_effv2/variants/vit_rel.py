"""The columns of ViT_REL; `models.vit_rel` builds its rows.

Dai et al. 2021, arXiv 2106.04803, section 2.2. There are no published rows: `layout("ViT_REL")`
makes one.
"""

import dataclasses

from keras_effv2.variants import application, coatnet
from keras_effv2.variants.coatnet import Stage

BLOCKS = ("transformer",)
CHOICES = {"gelu": coatnet.CHOICES["gelu"]}
HALVINGS = 0  # stages of stride 2: the patches make the one level of features
PATCH = 16  # side of a patch in pixels
VARIANTS: dict[str, application.Variant] = {}


@dataclasses.dataclass(frozen=True)
class Variant(application.Variant):
    """`application.Variant` and the one stage of a ViT_REL."""

    stages: tuple[Stage, ...] = ()
    head_size: int = 32  # channels of one attention head
    gelu: str = "gelu_tanh"

    def __post_init__(self):
        application.check_choices(self, CHOICES)
        if len(self.stages) != 1:
            raise ValueError(f"A ViT_REL has one stage. Received: {len(self.stages)}.")
