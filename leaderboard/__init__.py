"""Results: records, stores, ranking, published rows, tables and a page.  Never imports torch, and no benchmark."""
