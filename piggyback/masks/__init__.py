"""Masks as bits: in payload files, and in memory."""
