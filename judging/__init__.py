"""How explanations are judged: clips, their maps, the measures, and the rows of a table."""
