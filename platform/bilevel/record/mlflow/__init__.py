"""What does MLflow hold of a study, and how is it written there so that writing twice is writing once?

The only room that imports MLflow. Runs are found again by tags; the tag `bilevel.synced` of the parent says up to where
the journal is written for certain. A database that MLflow keeps in this process is written in bulk (`tables`), anything
else through MLflow's client (`requests`); what is read back is the same.
"""

from bilevel.record.mlflow.database import load, locked
from bilevel.record.mlflow.ledger import Ledger
from bilevel.record.mlflow.requests import first_line

__all__ = ["Ledger", "first_line", "load", "locked"]
