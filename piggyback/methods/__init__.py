"""Methods: what a task changes about a pretrained network.  One small file each.

Three files are about all of them: ``contract.py`` says what a method promises, ``table.py`` lists ours without loading
torch, ``registry.py`` finds a method by its name.  ``docs/adding-a-method.md`` walks through a new one.
"""
