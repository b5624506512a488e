"""One embeddings API for every door: requests and their checks, limits, answers, errors."""
