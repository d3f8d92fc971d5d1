"""Tables of entries as terminal text, Markdown, CSV, JSON and LaTeX."""
