"""The criteria language: parsing, evaluation on intervals, and checks of consistency."""
