"""Who acts? The loop that asks a study what comes next, has it carried out, and writes down what happened.

Here are the runs, their results and audits, and the use of what was learned. It must not know how a person looks
at them: that is `view/` and `cli/`.
"""
