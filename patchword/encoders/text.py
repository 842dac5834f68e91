"""The text towers a method may choose from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from patchword.encoders.bert import Bert, BertConfig
from patchword.encoders.bigru import Bigru, BigruConfig

TextConfig = Annotated[BigruConfig | BertConfig, Field(discriminator="kind")]


def build_text(config: BigruConfig | BertConfig, joint_dim: int) -> Bigru | Bert:
    """The text tower that a configuration describes, with fresh weights."""
    return Bert(config, joint_dim) if isinstance(config, BertConfig) else Bigru(config, joint_dim)
