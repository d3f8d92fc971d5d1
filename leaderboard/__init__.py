"""Results: their format, the decathlon score, published rows.  Never imports torch."""
