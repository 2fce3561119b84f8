"""Is a fact localized, or only a query? The Query Localization study (Chen et al., ICLR 2025, arXiv 2405.14117)."""
