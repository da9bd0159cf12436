"""Where rows and entities are kept; psycopg is used here and nowhere else."""
