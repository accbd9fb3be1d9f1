"""Records: what a sweep leaves beside its commits, and what can be told from them alone."""
