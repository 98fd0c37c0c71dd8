"""Engines that sample replies from policies."""
