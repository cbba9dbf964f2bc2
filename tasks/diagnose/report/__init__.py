"""The diagnosis as Markdown, as a page and as JSON."""
