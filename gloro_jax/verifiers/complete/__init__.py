"""Complete verifiers: given time, they decide every image."""
