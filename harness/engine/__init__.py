"""From what a user asks for to what is on record: options, plan, trial, worker, evaluation, record."""
