"""How explanations are judged: clips, their maps, the subjects that measures read, and the rows of a table."""
