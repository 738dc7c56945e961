"""Tests of rerank."""
