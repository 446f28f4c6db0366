"""What is wanted, what has happened, and what comes next? Pure: a study decides, only the driver acts.

It must not know files, clocks, processes, Ray or MLflow; all of it is rebuilt from the events of a journal.
"""
