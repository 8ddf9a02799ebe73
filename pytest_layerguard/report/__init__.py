"""How it is told: lines, tables and files made from outcomes. Nothing here measures or judges."""
