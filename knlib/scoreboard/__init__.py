"""All editors on one edit set: arms as data, what runs them (`python -m knlib.scoreboard.grid`), results, tables, figures."""
