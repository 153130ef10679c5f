"""Adapters for the objects that a user registers: modules, optimizers, generators and the rest."""
