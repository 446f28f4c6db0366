"""What does a person see? The terminal, tables as text, and the report: a record in, text out.

It must not begin, change or end anything.
"""
