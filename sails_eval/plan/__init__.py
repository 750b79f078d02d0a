"""From what was asked for to all that will be done: pairs, tasks, cells, their identities and costs."""
