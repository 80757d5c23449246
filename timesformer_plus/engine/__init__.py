"""Training, evaluation and prediction: where models and data meet.

Import what you need from its module (``engine.train``, ``engine.evaluate`` …): nothing is imported here, so that
``python -m timesformer_plus.engine.train`` runs a module that no one has imported before it.
"""
