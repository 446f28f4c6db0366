"""Write down: the journal, the checkpoints it names, and MLflow as its picture."""
