"""The arithmetic of training: types of numbers, rules of optimizers, updates of what is trained in place."""
