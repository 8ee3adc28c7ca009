"""Labelled data sets that an encoder is scored on, each read into :class:`~imuvid.ood.datasets.base.Windows`."""
