"""The use cases: pull, push, list. Knows neither quart nor httpx."""
