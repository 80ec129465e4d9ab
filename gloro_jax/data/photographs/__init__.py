"""Photographs that memory cannot hold: prepared in shards, read and decoded batch by batch."""
