"""From tasks to answers: every variant of a model is asked the same questions."""
