"""Datasets (embedded and own), samplers, loaders, caches and augmentation on the device."""
