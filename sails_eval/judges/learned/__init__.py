"""The judge `learned`: a classifier of answers that was trained on people's labels.

`features.py` turns answers into numbers, `classifier.py` these into probabilities and back from a folder,
`training.py` makes one and tests it on models and prompts that it has not seen, `card.py` writes what came of that,
`judge.py` judges with it.
"""
