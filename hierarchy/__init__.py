"""The class tree and its embedding in hyperbolic space: floor 0, which imports nothing else of the project."""

from hierarchy.embeddings import (
    ClassEmbeddings,
    distance,
    evaluate_embedding,
    find_embeddings,
    fit_embeddings,
    load_embeddings,
    save_embeddings,
)
from hierarchy.tree import Hierarchy

__all__ = [
    "ClassEmbeddings",
    "Hierarchy",
    "distance",
    "evaluate_embedding",
    "find_embeddings",
    "fit_embeddings",
    "load_embeddings",
    "save_embeddings",
]
