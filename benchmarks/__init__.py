"""Measures redisjobs beside its peers; see README.md here."""
