"""What the ``openai`` sampler is made of: options, HTTP, answers, and what they say of entropy."""
