"""What the rules of an administrator are made of: keys, patterns, conditions, texts."""
