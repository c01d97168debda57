"""Forward passes over given prompts and completions: logprobs and entropies of every token."""
