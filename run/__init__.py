"""One run: its files, data and model, how it resumes, and the loop that trains it."""
