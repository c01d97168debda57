"""A validation study: does what the tool says before RL agree with what GRPO then does?"""
