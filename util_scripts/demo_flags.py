"""How the demo trains, for all scripts that train on its data; itself no script."""

# A small trunk of 4 x 8 x 8 cells for clips of 16 x 64 x 64, and a schedule that two CPU cores finish in minutes.
TRAINING = """--model_depth 10 --resnet_widen_factor 0.25 --conv1_t_size 3 --temporal_strides 2 1 2 1 1
 --spatial_strides 2 2 2 1 1 --sample_size 64 --batch_size 24 --trunk_epochs 32 --warm_epochs 14 --n_epochs 14
 --train_jitter 0 --focus 0.02 --prototypes_per_node 4 --edge 1.5
 --val_every 100 --n_val_samples 4 --inference_stride 4 --n_threads 0 --memory_gb 1"""
BATCH = 48  # windows at a time
