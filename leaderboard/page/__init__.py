"""The static page: tables, charts, and a page for each result with its evidence."""
