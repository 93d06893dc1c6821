"""A server that plays the systems freight work talks to: two carriers, a customs portal and an ERP.

It answers JSON over HTTP, slowly and now and then wrongly, deduplicates on `Idempotency-Key`, and keeps a
record on disk of every request and every effect: the independent witness of what really happened.
"""
