"""The one gate for all that is fetched: addresses, deadlines, encodings, redirects, tokens."""
