"""Query-relevant neurons: which neurons answer a question, asked as multiple choice (Chen et al., AAAI-25, arXiv 2406.10868)."""
