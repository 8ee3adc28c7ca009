"""Kinds of recordings, by the name that ``source.kind`` gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.sources.base import Source

if TYPE_CHECKING:  # the config imports the configs of the sources
    from shards.config import SourceConfig


def make_source(config: SourceConfig) -> Source:
    """Return the source of a checked config (:func:`shards.config.check`)."""
    if config.kind == "gopro":
        from shards.sources.gopro import GoProSource

        assert config.gopro is not None
        return GoProSource(config.gopro)
    if config.kind == "aria":
        from shards.sources.aria import AriaSource

        assert config.aria is not None
        return AriaSource(config.aria)
    if config.kind == "ego4d":
        from shards.sources.ego4d import Ego4DSource

        assert config.ego4d is not None
        return Ego4DSource(config.ego4d)
    if config.kind == "paired":
        from shards.sources.paired import PairedSource

        assert config.paired is not None
        return PairedSource(config.paired)
    from shards.sources.simulated import SimulatedSource

    assert config.simulated is not None
    return SimulatedSource(config.simulated)
