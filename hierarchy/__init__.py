"""The class tree and its embedding in hyperbolic space: floor 0, which imports nothing else of the project."""

from hierarchy.embeddings import ClassEmbeddings, find_embeddings, fit_embeddings, one_hot
from hierarchy.files import load_embeddings, save_embeddings
from hierarchy.hyperbolic import distance
from hierarchy.measures import evaluate_embedding
from hierarchy.tree import Hierarchy

__all__ = [
    "ClassEmbeddings",
    "Hierarchy",
    "distance",
    "evaluate_embedding",
    "find_embeddings",
    "fit_embeddings",
    "load_embeddings",
    "one_hot",
    "save_embeddings",
]
