"""Defaults that depend on other flags: on published weights, on the score, and on --paper."""

# What the weights or the pushed prototypes depend on, beside the flags of trunks: a resumed run takes these from its
# checkpoint and no other.
WEIGHT_FLAGS = ("model", "model_depth", "conv1_t_stride", "temporal_strides", "spatial_strides", "neck",
                "neck_channels", "similarity", "similarity_scale", "standardise",
                "prototype_channels", "prototypes_per_node", "n_classes", "score", "c", "T", "learn_T", "emb_dim",
                "edge", "emb_file", "last_scale", "random_last", "paper",
                "pretrain_path", "normalisation", "calibrate", "sample_size", "sample_duration", "sample_t_stride")
# What belongs to one call of the program and is never taken from a checkpoint.
CALL_FLAGS = ("root_path", "result_path", "resume_path", "overwrite", "no_train", "no_val", "inference",
              "inference_subset", "inference_batch_size", "target_accuracy", "output_topk", "n_threads", "device",
              "no_cuda", "amp",
              "compile", "deterministic", "tensorboard", "no_img", "strict", "keep_features")
# What checkpoints from before a flag were made with, where that is not the flag's default.
LEGACY = {"window_pool": "mean", "score": "hyperbolic", "antialias": False}
# Defaults of the flags that nobody gives. Training starts from published weights (--pretrain_path) or from scratch. The
# score decides at every branching of the tree, or by distances to embedded classes. A tree score takes "frozen" where
# the trunk's weights are published ones and stay as they are. --paper takes "paper" on top, and margins that are the
# number of channels.
RECIPES = {
    "pretrained": {
        "trunk_epochs": 5, "trunk_optimizer": "sgd", "trunk_learning_rate": 0.01, "trunk_weight_decay": 1e-3,
        "trunk_lr_scheduler": "onecycle", "warm_learning_rate": 0.003, "warm_lr_scheduler": "constant",
        "optimizer": "sgd", "learning_rate": 0.001, "head_learning_rate": 0.001, "weight_decay": 1e-5,
        "lr_scheduler": "multistep", "train_crop_min_scale": 0.25, "train_jitter": 0.0},
    "scratch": {
        "trunk_epochs": 60, "trunk_optimizer": "adamw", "trunk_learning_rate": 0.004, "trunk_weight_decay": 0.01,
        "trunk_lr_scheduler": "onecycle", "warm_learning_rate": 0.006, "warm_lr_scheduler": "onecycle",
        "optimizer": "adamw", "learning_rate": 3e-4, "head_learning_rate": 9e-4, "weight_decay": 1e-3,
        "lr_scheduler": "onecycle", "train_crop_min_scale": 0.7, "train_jitter": 0.3},
    "tree": {
        "neck": "levels", "prototype_channels": 64, "similarity": "exp", "similarity_scale": 0.5,
        "prototypes_per_node": 6, "starts": "spread", "standardise": False, "warm_score_learning_rate": 0.03,
        "score_learning_rate": 0.003, "last_learning_rate": 0.05, "tune_iterations": 300,
        "merge_coverage": [0.9, 0.8], "level_ce_weight": [1.0], "cluster_weight": [0.5], "separation_weight": [1.0],
        "background_weight": 0.3, "coverage_weight": 0.5, "group_weight": 0.0, "orthogonality_weight": 0.5,
        "sharing_weight": 0.3, "ways_weight": 4.0, "even_weight": 1.0, "pooled_weight": 1.0, "separation_margin": 2.0},
    "embedded": {
        "neck": "sigmoid", "prototype_channels": 128, "similarity": "log", "similarity_scale": 0.5,
        "prototypes_per_node": 10, "starts": "sampled", "standardise": False, "last_learning_rate": 0.001,
        "tune_iterations": 20, "level_ce_weight": [0.0], "cluster_weight": [0.8, 0.5, 0.3],
        "separation_weight": [0.08, 0.11, 0.13], "background_weight": 0.5, "coverage_weight": 1.0, "group_weight": 1e-4,
        "orthogonality_weight": 0.0, "sharing_weight": 0.0, "ways_weight": 0.0, "even_weight": 0.0,
        "pooled_weight": 0.0, "separation_margin": 10.0},
    # A frozen trunk cannot lose the ways of a class, and its features are easily overfitted: docs/results/NOTES.md,
    # "Fights".
    "frozen": {"prototypes_per_node": 4, "similarity_scale": 1.0, "standardise": True, "ways_weight": 0.0,
               "coverage_weight": 0.0, "tune_iterations": 50},
    "paper": {
        "T": 1.0, "sure": 0.0, "trunk_epochs": 0, "warm_epochs": 9, "cache_features": 0, "push_clips": 1,
        "batch_ce_weight": 1.0, "group_weight": 0.0, "l1_weight": 1e-4},
}

# The released code's method, which is what --paper means: another value of one of these contradicts it.
PAPER = {
    "neck": "leaky", "similarity": "log", "score": "cosine", "learn_T": False, "random_last": True, "no_start": True,
    "focus": 1.0, "background_weight": 0.0, "coverage_weight": 0.0, "ce_weight": [0], "orthogonality_weight": 0.0,
    "sharing_weight": 0.0, "separation_rivals": "all", "last_layer": "joint", "push_on": "training",
    "push_repeats": True, "no_last_push": True, "window_pool": "mean"}
