"""Sidekiq, for Ruby, as a contender."""
