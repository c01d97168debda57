"""Where the private key is: the signer, what it checks, and how the service asks it."""
