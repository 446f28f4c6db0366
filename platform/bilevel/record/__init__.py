"""What is written down? The journal, the checkpoints that it names, and MLflow as their picture.

It must not decide anything, nor know who carries trials out.
"""
