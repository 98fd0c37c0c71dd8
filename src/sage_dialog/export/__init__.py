"""Policies for others: a folder that plain libraries load, and the model card in it."""
