"""One reader for the official files of each public data set; see :mod:`imuvid.ood.datasets.catalog`."""
