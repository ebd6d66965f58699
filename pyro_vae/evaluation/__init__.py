"""How far each answer is from the truth."""
