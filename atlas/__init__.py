"""How Atlas is made: facts, templates, training text, tokenizer and the three small models."""
