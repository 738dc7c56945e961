"""Tests of portable."""
