"""The machine below the program: cores and waiting threads, disks, and what is said when either runs out."""
